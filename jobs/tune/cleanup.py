"""Ends processes and jobs that no driver of the study follows any more."""

import logging
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from jobs.cluster.ledger import Ledger, Submission
from jobs.cluster.overview import overview
from jobs.cluster.slurm_backend import WAITING
from jobs.cluster.slurm_commands import JobState, SlurmError, ask, queue
from jobs.tune.runners import DRIVER_VARIABLE
from suite.paths import RunPaths
from suite.record import SETTLED, UNFINISHED, StopRequest, read_status, request_stop

GRACE_S = 30.0
PATIENCE_S = 2 * GRACE_S
LEAVES_BY_ITSELF_S = 20.0
SBATCH_S = 10.0
FORCED_GRACE_S = 2.0
POLL_S = 0.2
QUEUE_POLL_S = 1.0

log = logging.getLogger("shiftbench")


def cancel_orphans(study: str, output_dir: Path, wanted: Collection[str]) -> None:
    """Cancel jobs that a former driver of this study left, except those of the run folders `wanted`.

    What cannot be cancelled now is cancelled when the driver ends. Raises SlurmError when the queue does not
    answer.
    """
    active = _active(_driven(study, output_dir), output_dir)
    if ids := [j.job for j, folder in active if folder.name not in wanted and not _is_leaving(j, folder)]:
        try:
            ask("scancel", *ids)
        except SlurmError as error:  # also for a job that has just left
            log.warning("jobs that a former driver left: %s", error)


def end_jobs(study: str, output_dir: Path, reason: str, is_forced: bool) -> None:
    """End every job of this study. Runs that are not over become `preempted`, with the reason.

    `is_forced`: does not wait for checkpoints. Raises SlurmError when jobs may be left because Slurm does not
    answer or they do not end; running ones are asked to stop through their folders in any case.
    """
    request = StopRequest("preempted", reason, "study")
    for one in _driven(study, output_dir):
        _ask_run(output_dir / one.folders[0], one.job_id, request)
    begun_at = time.monotonic()
    seen: dict[str, Path] = {}
    cancelled: set[str] = set()
    refusal: SlurmError | None = None
    while True:
        driven = _driven(study, output_dir)
        left = _active(driven, output_dir)
        waited_s = time.monotonic() - begun_at
        is_over = not left and not _is_being_submitted(driven, seen.values(), Ledger(output_dir))
        if is_over or waited_s > PATIENCE_S:
            break
        is_patient = not is_forced and waited_s < LEAVES_BY_ITSELF_S
        now = []
        for job, folder in left:
            is_leaving = _is_leaving(job, folder)
            if job.job not in seen and not is_leaving:
                _ask_run(folder, job.job, request)
            if job.job not in cancelled and not (is_patient and is_leaving):
                now.append(job.job)
        seen |= {job.job: folder for job, folder in left}
        if now:
            if is_forced:
                with suppress(SlurmError):  # a queued job has no process to kill
                    ask("scancel", "--signal=KILL", *now)
            try:
                ask("scancel", *now)
                cancelled.update(now)
                refusal = None
            except SlurmError as error:  # also for a job that has just left: the queue decides
                refusal = error
        time.sleep(QUEUE_POLL_S)
    if seen:
        overview(output_dir, only=list(seen.values()))  # records which runs never began
    if left:
        ids = ", ".join(job.job for job, _ in left)
        raise refusal or SlurmError(f"not gone after {waited_s:.0f} s, though cancelled: {ids}")


def _ask_run(folder: Path, job: str | None, request: StopRequest) -> None:
    """Ask the run to stop; a later driver may resume it."""
    paths = RunPaths(folder)
    status = read_status(paths)
    if folder.exists() and status.state in UNFINISHED and status.content.get("job") in (None, job):
        request_stop(paths, request)


def _is_leaving(job: JobState, folder: Path) -> bool:
    """Whether the job's record has ended: it then leaves by itself, and accounting calls it completed."""
    status = read_status(RunPaths(folder))
    return status.state in SETTLED and status.content.get("job") == job.job and job.state not in WAITING


def _driven(study: str, output_dir: Path) -> list[Submission]:
    ledger = Ledger(output_dir)
    return [
        one
        for one in ledger.read()
        if one.scheduler == "slurm" and one.driver == study and ledger.is_ours(one)
    ]


def _active(driven: Sequence[Submission], output_dir: Path) -> list[tuple[JobState, Path]]:
    """Queued and running jobs of these submissions, and the folders of their runs. Raises SlurmError."""
    folders = {one.name: output_dir / one.folders[0] for one in driven}  # one run each
    jobs = queue(folders).values()
    return [(job, folders[job.name]) for job in jobs if job.is_active and job.name in folders]


def _is_being_submitted(driven: Sequence[Submission], seen: Collection[Path], ledger: Ledger) -> bool:
    """Whether an sbatch whose caller was killed may still submit a job."""
    names = {folder.name for folder in seen}
    waiting = [one for one in driven if one.job_id is None and one.folders[0] not in names]
    return any(ledger.written_s_ago(one) < SBATCH_S for one in waiting)


def end_processes(driver: str, is_forced: bool) -> None:
    """End every process that this driver's trials started on this machine; they stop by themselves first."""
    deadline = time.monotonic() + (FORCED_GRACE_S if is_forced else GRACE_S)
    while (left := _processes_of(driver)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _processes_of(driver: str) -> list[psutil.Process]:
    """This driver's processes. A fork of its server shows the environment of the server, which has it too."""
    every = psutil.process_iter(["environ"])  # None for processes of other users
    return [one for one in every if (one.info["environ"] or {}).get(DRIVER_VARIABLE) == driver]
