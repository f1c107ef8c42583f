"""The program of a Slurm job's task: trains one run as one of its ranks, and requeues the job when warned.

docs/slurm.md describes the signals. torch is imported only after their handlers are installed.
"""

import logging
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from jobs.checks import writing
from jobs.cluster.slurm_commands import SlurmError, ask, current_job, is_preempted, shown_job
from jobs.local.process_log import also_logged_to, log_to_stderr
from jobs.sources import check_own_sources
from suite.errors import Preempted, UserError
from suite.experiment import Run
from suite.large_imports import importing_large_packages
from suite.paths import RunPaths
from suite.record import UNFINISHED, RecordWriter, errors_noted, read_status, read_stop_request
from suite.record.rank_errors import in_one_line
from suite.signals import StopFlag, ask_script_to_requeue, grace_after_warning_s, stop_flag

log = logging.getLogger("shiftbench")

# A node that Slurm has given up may keep training until it notices that the run was restarted elsewhere.
PATIENCE_S = 180.0
# Consecutive starts that were warned before their first step: the time limit is too short for a start.
MAX_FRUITLESS_STARTS = 3
KILL_WAIT_S = 30.0  # Slurm's default, between SIGTERM and SIGKILL
MARGIN_S = 5.0  # A task stops asking for its requeue this long before Slurm kills it.
REQUEUE_POLL_S = 3.0


@dataclass(frozen=True)
class TrainTask:
    """One run, as the JSON of its configuration: a pickle of it cannot go out of date."""

    run_json: str
    folder: str
    snapshot: str | None = None  # None in the pickles of earlier versions

    def __call__(self) -> str:
        """Train, and return the run's state. Raises what ends this rank, so that srun ends the others."""
        with stop_flag() as stop:
            log_to_stderr()
            folder, rank = Path(self.folder), int(os.environ.get("SLURM_PROCID", "0"))
            paths = RunPaths(folder)
            if not folder.exists():
                log.warning("%s was removed while the job waited: the run starts from step 0", folder)
            try:
                check_own_sources(self.snapshot)  # first: others may not know all fields of the run
                run = Run.model_validate_json(self.run_json)
                if rank == 0:
                    with writing(folder):
                        folder.mkdir(parents=True, exist_ok=True)
                with also_logged_to(paths.log) if rank == 0 else nullcontext():
                    _train(run, folder, rank, stop)
            except Preempted as end:
                is_asked = read_stop_request(paths) is not None  # the study does not want it to continue
                if rank == 0 and not is_asked and (end.is_warned or _is_preempted()):
                    began_s = stop.at_s or time.monotonic()
                    _requeue(run, folder, began_s + _grace_s(end) - MARGIN_S)
            except Exception as error:
                if rank == 0:
                    _record_failure(self.run_json, folder, error)
                raise
        return read_status(paths).state

    def checkpoint(self) -> object:
        """Return what Submitit requeues after a warning that comes before the handlers are installed."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _train(run: Run, folder: Path, rank: int, stop: StopFlag) -> None:
    # By default every rank would use every core of the node.
    os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
    with errors_noted(RunPaths(folder), rank):
        with importing_large_packages():
            from suite.train import joined, train_on

        claim = f"{current_job()} start {os.environ.get('SLURM_RESTART_COUNT', '0')}"
        is_done = read_status(RunPaths(folder)).state == "completed"
        with joined(run.system) as ranks:
            if ranks.agree(int(is_done and ranks.is_first)):  # a file system may show it to only some ranks
                log.info("%s is complete already", folder)
            else:
                train_on(run, folder, ranks, stop, claim=claim, patience_s=PATIENCE_S)


def _record_failure(run_json: str, folder: Path, error: Exception) -> None:
    """Write why the run failed into its record, unless training itself has written how it ended.

    Sources of another version may not know the run; then its job's log alone says why.
    """
    status = read_status(RunPaths(folder))
    if status.state not in UNFINISHED and not status.died_silently:
        return
    try:
        with RecordWriter(Run.model_validate_json(run_json), folder) as record:
            record.mark_ended("failed", in_one_line(error))
    except (OSError, UserError, ValueError) as failure:
        log.error("%s: the record could not be written: %s", folder, failure)


def _is_preempted() -> bool:
    """Return whether this job, which received SIGTERM, is being preempted; False where that is not known.

    Without Slurm's commands, as in a container, the job's script asks.
    """
    job = str(current_job())
    try:
        return is_preempted(job)
    except SlurmError as error:
        if error.kind == "not_installed":
            ask_script_to_requeue(True, if_preempted=True)
            return False
        log.warning("whether %s was preempted is not known: %s", job, error)
        return False


def _requeue(run: Run, folder: Path, deadline_s: float) -> None:
    """Ask Slurm to start this job again, unless several starts in a row have not reached a step.

    After `deadline_s` (of time.monotonic) the job's script goes on asking.
    """
    with RecordWriter(run, folder) as record:
        is_fruitless = record.detail("step") == record.detail("resumed_from_step")
        fruitless = (record.detail("fruitless_starts") or 0) + 1 if is_fruitless else 0
        reason = str(record.detail("reason"))
        if fruitless >= MAX_FRUITLESS_STARTS:
            why = (
                f"the warning came {fruitless} times in a row before a step was done: the time limit is too "
                "short for a start, or for an evaluation; raise time in the cluster's file, and retry with "
                "--cluster"
            )
            record.status("failed", fruitless_starts=0, reason=why)
            return
        record.status("preempted", fruitless_starts=fruitless)
        ask_script_to_requeue(True)  # first: Slurm may kill this process while it asks
        try:
            _ask_for_requeue(str(current_job()), deadline_s)
        except SlurmError as error:
            if error.kind == "not_installed":
                log.info("the job's script has it queued again")
                return
            why = f"{error}; if its job does not return to the queue, `shiftbench retry` submits it again"
            record.status("preempted", reason=f"{reason}; it could not be requeued yet: {why}")
            log.error("not requeued yet, and left to the job's script: %s", error)
        else:
            ask_script_to_requeue(False)
            log.info("requeued")


def _ask_for_requeue(job: str, deadline_s: float) -> None:
    """Ask until Slurm has requeued the job. Raises SlurmError after `deadline_s`.

    Whatever it answers meanwhile: a controller that restarts, and one without munge, refuse in many words.
    Raises it at once where Slurm's commands are missing.
    """
    while True:
        left_s = max(REQUEUE_POLL_S, deadline_s - time.monotonic())
        try:
            ask("scontrol", "requeue", job, timeout_s=left_s)
            return
        except SlurmError as error:
            if _is_requeued(job, left_s):  # the answer to an earlier request was lost
                return
            if time.monotonic() > deadline_s or error.kind == "not_installed":
                raise
            log.warning("%s; asking again", error)
            time.sleep(REQUEUE_POLL_S)


def _grace_s(end: Preempted) -> float:
    """Return the seconds that Slurm leaves a job after the signal that ended its training."""
    return (grace_after_warning_s() or KILL_WAIT_S) if end.is_warned else KILL_WAIT_S


def _is_requeued(job: str, timeout_s: float) -> bool:
    try:
        shown = shown_job(job, timeout_s=timeout_s)
    except SlurmError:
        return False
    is_again = int(shown.get("Restarts", "0")) > int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    return is_again or shown.get("JobState") in ("PENDING", "CONFIGURING", "REQUEUED")
