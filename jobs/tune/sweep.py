"""Ending what a study's driver would leave behind: processes and jobs that nobody follows any more."""

import logging
import os
import signal
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from jobs.slurm.commands import SlurmError, ask, queue
from jobs.status.overview import overview
from jobs.submissions.ledger import Ledger, Submission
from jobs.tune.ways import DRIVER_VARIABLE, settle_request
from suite.errors import UserError
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import UNFINISHED, StopRequest, ask_to_stop, read_status

GRACE_S = 30.0
LAST_WORDS_S = 20.0  # a job whose record has its end leaves by itself, and accounting calls it completed
HASTE_S = 2.0
POLL_S = 0.2

log = logging.getLogger("shiftbench")


def jobs_of(study: str, output_dir: Path) -> dict[str, str]:
    """Slurm jobs that drivers of this study submitted and that are not over: the run's folder name by job.

    Raises SlurmError.
    """
    runs = {one.name: one.folders[0] for one in _driven(study, output_dir)}  # one run each
    return {job.job: runs[job.name] for job in queue(runs).values() if job.is_active and job.name in runs}


def _driven(study: str, output_dir: Path) -> list[Submission]:
    ledger = Ledger(output_dir)
    return [one for one in ledger.read() if one.is_slurm and one.driver == study and ledger.is_ours(one)]


def cancel_orphans(study: str, output_dir: Path, wanted: Collection[str]) -> None:
    """Cancel jobs that a former driver of this study left, but for those of the run folders `wanted`.

    Raises SlurmError.
    """
    jobs = [job for job, name in jobs_of(study, output_dir).items() if name not in wanted]
    if jobs:
        ask("scancel", *jobs)


def end_jobs(study: str, output_dir: Path, reason: str, in_haste: bool) -> None:
    """End every job of this study, and have the records of those that are not over say `preempted`.

    `in_haste`: without waiting for checkpoints. Raises SlurmError when jobs may be left, since Slurm does not
    answer; those that run are asked by their folder all the same.
    """
    for one in _driven(study, output_dir):
        paths = RunPaths(output_dir / one.folders[0])
        status = read_status(paths)
        is_its_job = status.content.get("job") in (None, one.job_id)
        # So that a later driver takes it for its own to go on with, too.
        if paths.folder.exists() and status.state in UNFINISHED and is_its_job:
            ask_to_stop(paths, StopRequest("preempted", reason, "study"))
    jobs = jobs_of(study, output_dir)
    if not jobs:
        return
    if in_haste:
        with suppress(SlurmError):  # those that wait have nothing to kill
            ask("scancel", "--signal=KILL", *jobs)
    leaving = set() if in_haste else {job for job, name in jobs.items() if _is_over(output_dir / name)}
    if jobs.keys() - leaving:
        ask("scancel", *(jobs.keys() - leaving))
    begun_at = time.monotonic()
    while (left := jobs_of(study, output_dir).keys()) and time.monotonic() < begun_at + 2 * GRACE_S:
        if leaving & left and time.monotonic() > begun_at + LAST_WORDS_S:
            ask("scancel", *(leaving & left))
            leaving.clear()
        time.sleep(1.0)
    overview(output_dir, only=[output_dir / name for name in jobs.values()])  # writes down what never began


def _is_over(folder: Path) -> bool:
    return read_status(RunPaths(folder)).state not in UNFINISHED


def end_processes(driver: str, in_haste: bool) -> None:
    """End every process that this driver's trials started on this machine. They know that it is gone."""
    deadline = time.monotonic() + (HASTE_S if in_haste else GRACE_S)
    while (left := _processes_of(driver)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _processes_of(driver: str) -> list[int]:
    mark = f"{DRIVER_VARIABLE}={driver}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended, or is another's
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def settle_requests(runs: Sequence[Run], output_dir: Path) -> None:
    """Have the records of runs that were asked to end, and have ended, say so."""
    for run in runs:
        folder = output_dir / run.folder_name
        if RunPaths(folder).stop.exists():
            try:
                settle_request(run, folder)
            except (UserError, OSError) as error:  # the next driver settles it
                log.warning("%s", error)
