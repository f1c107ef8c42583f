"""A run's state by its record and its Slurm job together; writes into the record how a job ended."""

import getpass
import time
from dataclasses import dataclass
from pathlib import Path

from jobs.cluster.ledger import Submission
from jobs.cluster.slurm_commands import JobState
from suite.errors import UserError
from suite.record import UNFINISHED, Record, RecordWriter, State, Status

LONGEST_RETURN_S = 7 * 24 * 3600.0
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING", "SUSPENDED")


@dataclass(frozen=True)
class JobVerdict:
    """A run's state and its reason. `is_final`: it has ended, and only the scheduler knows how."""

    state: State
    reason: str
    is_final: bool = False


def is_unsettled(status: Status) -> bool:
    """Return whether the record does not say how the run ended, so that its scheduler must be asked."""
    return status.state in UNFINISHED or status.died_silently or status.is_missing


def may_come_back(status: Status, job: str | None) -> bool:
    """Return whether a failed run's own job may be in the queue again.

    When a node fails, the first rank records a lost connection, and Slurm may start the job elsewhere. After
    LONGEST_RETURN_S this is no longer asked.
    """
    if status.state != "failed" or job is None or status.content.get("job") != job:
        return False
    return time.time() - float(status.content.get("updated_at", 0.0)) < LONGEST_RETURN_S


def of_requeued(status: Status, seen: JobState | None) -> JobVerdict:
    """Judge a record that says `failed` by what Slurm says of the job that failed."""
    if seen is not None and seen.state in WAITING:
        return JobVerdict("queued", f"{seen.reason or seen.state}; {status.reason}")
    return JobVerdict("failed", status.reason or "")


def of_job(
    status: Status,
    one: Submission,
    job: str | None,
    seen: JobState | None,
    *,
    is_being_submitted: bool = False,
) -> JobVerdict:
    """Judge a record that does not say how the run ended by what Slurm says of its job."""
    if status.state in ("running", "preempted") and status.content.get("job") != job:
        return JobVerdict(status.state, status.reason or "")  # it was continued by another process
    if job is None and is_being_submitted:
        return JobVerdict("queued", "being submitted")
    if job is None:
        return JobVerdict("failed", "its submission was interrupted before Slurm took it: submit again")
    if seen is None:
        if status.state in UNFINISHED and one.user != getpass.getuser():
            return JobVerdict(status.state, f"submitted by {one.user}; Slurm does not show you job {job}")
        if status.state == "preempted":
            return JobVerdict("preempted", status.reason or "")
        return JobVerdict(
            "failed", f"job {job} is no longer in the queue and Slurm gives no reason; see `shiftbench logs`"
        )
    recorded = "" if status.died_silently or status.is_missing or not status.reason else f"; {status.reason}"
    if seen.state in WAITING:
        return JobVerdict("queued", f"{seen.reason or seen.state}{recorded}")
    if seen.is_active:
        is_up = status.state == "running"
        return JobVerdict("running", "" if is_up else "its processes are starting, or ending")
    if seen.state == "CANCELLED":
        return JobVerdict("cancelled", f"job {job} was cancelled{recorded}", is_final=True)
    if seen.state == "COMPLETED" and status.state in ("running", "preempted"):
        return JobVerdict(status.state, status.reason or "")  # its final record may not be visible yet
    if status.errors:
        return JobVerdict("failed", status.reason or "", is_final=True)
    return JobVerdict("failed", f"job {job}: {seen.end}{recorded or _last_error(one, job)}", is_final=True)


def _last_error(one: Submission, job: str) -> str:
    """Return the last line of the job's errors, or srun's own on a task that was killed."""
    path = one.folder / f"{job}_0_log.err"
    try:
        lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    # The verdict names the exit code already.
    known = ("Exited with exit code", "Terminating StepId", "Job step aborted")
    lines = [line for line in lines[-20:] if not any(words in line for words in known)]
    own = [line for line in lines if line.startswith("srun: error")]
    return f"; {(own or lines[-1:])[0]}" if lines else ""


def settle(folder: Path, verdict: JobVerdict, status: Status) -> None:
    """Write a verdict into the record, unless the record has changed since `status` was read.

    Does nothing without write permission.
    """
    if not (folder / "run.json").exists():
        return
    try:
        # Not durable: there may be thousands, and Slurm can be asked again.
        with RecordWriter(Record.read(folder).run, folder, durable=False) as record:
            if record.detail("updated_at") != status.content.get("updated_at"):
                return
            record.mark_ended(verdict.state, verdict.reason)
    except (OSError, UserError, ValueError):
        return
