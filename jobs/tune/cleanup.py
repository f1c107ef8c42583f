"""Ending what a study's driver would leave behind: processes and jobs that nobody follows any more."""

import logging
import os
import signal
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from jobs.cluster.job_verdicts import WAITING
from jobs.cluster.ledger import Ledger, Submission
from jobs.cluster.overview import overview
from jobs.cluster.slurm_commands import SlurmError, ask, queue
from jobs.tune.runners import DRIVER_VARIABLE, settle_request
from suite.errors import UserError
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import SETTLED, UNFINISHED, StopRequest, ask_to_stop, read_status

GRACE_S = 30.0
PATIENCE_S = 2 * GRACE_S
LAST_WORDS_S = 20.0
SBATCH_S = 10.0
HASTE_S = 2.0
POLL_S = 0.2
QUEUE_POLL_S = 1.0

log = logging.getLogger("shiftbench")


def cancel_orphans(study: str, output_dir: Path, wanted: Collection[str]) -> None:
    """Cancel jobs that a former driver of this study left, but for those of the run folders `wanted`.

    Raises SlurmError when the queue does not answer. What cannot be cancelled now is at the driver's end.
    """
    orphans = [
        job for job in _active(_driven(study, output_dir), output_dir) if job.folder.name not in wanted
    ]
    if ids := [job.id for job in orphans if not job.is_leaving()]:
        try:
            ask("scancel", *ids)
        except SlurmError as error:  # said of a job that has just left, too
            log.warning("jobs that a former driver left: %s", error)


def end_jobs(study: str, output_dir: Path, reason: str, in_haste: bool) -> None:
    """End every job of this study, and have the records of those that are not over say `preempted`.

    `in_haste`: without waiting for checkpoints. Raises SlurmError when jobs may be left, since Slurm does not
    answer or they do not end; those that run are asked by their folder all the same.
    """
    request = StopRequest("preempted", reason, "study")
    for one in _driven(study, output_dir):
        _ask_run(output_dir / one.folders[0], one.job_id, request)
    begun_at = time.monotonic()
    seen: dict[str, Path] = {}
    told: set[str] = set()
    refusal: SlurmError | None = None
    while True:
        driven = _driven(study, output_dir)
        left = _active(driven, output_dir)
        waited_s = time.monotonic() - begun_at
        is_over = not left and not _is_being_submitted(driven, seen.values())
        if is_over or waited_s > PATIENCE_S:
            break
        for job in left:
            if job.id not in seen and not job.is_leaving():
                _ask_run(job.folder, job.id, request)
        seen |= {job.id: job.folder for job in left}
        is_patient = not in_haste and waited_s < LAST_WORDS_S
        now = [job.id for job in left if job.id not in told and not (is_patient and job.is_leaving())]
        if now:
            if in_haste:
                with suppress(SlurmError):  # those that wait have nothing to kill
                    ask("scancel", "--signal=KILL", *now)
            try:
                ask("scancel", *now)
                told.update(now)
                refusal = None
            except SlurmError as error:  # said of a job that has just left, too: the queue tells
                refusal = error
        time.sleep(QUEUE_POLL_S)
    if seen:
        overview(output_dir, only=list(seen.values()))  # writes down what never began
    if left:
        ids = ", ".join(job.id for job in left)
        raise refusal or SlurmError(f"not gone after {waited_s:.0f} s, though cancelled: {ids}")


def _ask_run(folder: Path, job: str | None, request: StopRequest) -> None:
    """So that a later driver takes it for its own to go on with, too."""
    paths = RunPaths(folder)
    status = read_status(paths)
    if folder.exists() and status.state in UNFINISHED and status.content.get("job") in (None, job):
        ask_to_stop(paths, request)


@dataclass(frozen=True)
class _Job:
    """A job that is not over, and the folder of its one run."""

    id: str
    state: str
    folder: Path

    def is_leaving(self) -> bool:
        """Whether its record has its end. It goes by itself then, and accounting calls it completed."""
        status = read_status(RunPaths(self.folder))
        is_its_job = status.content.get("job") == self.id
        return status.state in SETTLED and is_its_job and self.state not in WAITING


def _driven(study: str, output_dir: Path) -> list[Submission]:
    ledger = Ledger(output_dir)
    return [one for one in ledger.read() if one.is_slurm and one.driver == study and ledger.is_ours(one)]


def _active(driven: Sequence[Submission], output_dir: Path) -> list[_Job]:
    """Jobs of these submissions that are not over. Raises SlurmError."""
    folders = {one.name: output_dir / one.folders[0] for one in driven}  # one run each
    jobs = [job for job in queue(folders).values() if job.is_active and job.name in folders]
    return [_Job(job.job, job.state, folders[job.name]) for job in jobs]


def _is_being_submitted(driven: Sequence[Submission], seen: Collection[Path]) -> bool:
    """Whether a call of sbatch may go on whose caller was killed, and a job come of it yet."""
    names = {folder.name for folder in seen}
    waiting = [one for one in driven if one.job_id is None and one.folders[0] not in names]
    return any(0 <= time.time() - one.submitted_at < SBATCH_S for one in waiting)


def end_processes(driver: str, in_haste: bool) -> None:
    """End every process that this driver's trials started on this machine. They know that it is gone."""
    deadline = time.monotonic() + (HASTE_S if in_haste else GRACE_S)
    while (left := _processes_of(driver)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _processes_of(driver: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it has ended, or belongs to another user
            if process.environ().get(DRIVER_VARIABLE) == driver:
                found.append(process.pid)
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
