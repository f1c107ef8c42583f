"""What a run's record and its job say together, and an end that only the scheduler knew of, written down."""

import getpass
import time
from dataclasses import dataclass
from pathlib import Path

from jobs.cluster import detached
from jobs.cluster.ledger import Submission
from jobs.cluster.slurm_commands import JobState
from suite.errors import UserError
from suite.record import UNFINISHED, Record, RecordWriter, State, Status

LONGEST_RETURN_S = 7 * 24 * 3600.0
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING", "SUSPENDED")


@dataclass(frozen=True)
class JobVerdict:
    """A run's state and its reason. `is_final`: the scheduler alone knew, and it is over."""

    state: State
    reason: str
    is_final: bool = False


def is_unsettled(status: Status) -> bool:
    """Whether the record leaves open how the run ended, so that its job is to be asked."""
    return status.state in UNFINISHED or status.died_silently or status.is_missing


def may_come_back(status: Status, job: str | None) -> bool:
    """Whether a failed run's own job may be in the queue again: where a node fails, the first rank can only
    tell of a lost connection, and Slurm starts the job elsewhere. Not asked for ever.
    """
    if status.state != "failed" or job is None or status.content.get("job") != job:
        return False
    return time.time() - float(status.content.get("updated_at", 0.0)) < LONGEST_RETURN_S


def of_requeued(status: Status, seen: JobState | None) -> JobVerdict:
    """A record that says `failed`, and what Slurm says of the job that failed."""
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
    """A record that is not settled, and what Slurm says of its job."""
    if status.state in ("running", "preempted") and status.content.get("job") != job:
        return JobVerdict(status.state, status.reason or "")  # somebody went on with it elsewhere
    if job is None and is_being_submitted:
        return JobVerdict("queued", "being submitted")
    if job is None:
        return JobVerdict("failed", "its submission was interrupted before Slurm took it: submit again")
    if seen is None:
        if status.state in UNFINISHED and one.user != getpass.getuser():
            return JobVerdict(status.state, f"by {one.user}, and Slurm shows you nothing of job {job}")
        if status.state == "preempted":
            return JobVerdict("preempted", status.reason or "")
        return JobVerdict("failed", f"job {job} has left the queue without a word, and why is not known")
    said = "" if status.died_silently or status.is_missing or not status.reason else f"; {status.reason}"
    if seen.state in WAITING:
        return JobVerdict("queued", f"{seen.reason or seen.state}{said}")
    if seen.is_active:
        is_up = status.state == "running"
        return JobVerdict("running", "" if is_up else "its processes are starting, or ending")
    if seen.state == "CANCELLED":
        return JobVerdict("cancelled", f"job {job} was cancelled{said}", is_final=True)
    if seen.state == "COMPLETED" and status.state in ("running", "preempted"):
        return JobVerdict(status.state, status.reason or "")  # its last word is on its way, or was that
    if status.errors:
        return JobVerdict("failed", status.reason or "", is_final=True)
    return JobVerdict("failed", f"job {job}: {seen.end}{said or _last_word(one, job)}", is_final=True)


def of_launcher(status: Status, one: Submission, *, is_being_submitted: bool = False) -> JobVerdict:
    """A record that is not settled, and whether its launcher lives, as far as this machine can tell."""
    is_alive = detached.is_alive(one)
    if status.state == "queued" and one.job_id is None and is_being_submitted:
        return JobVerdict("queued", "being submitted")
    if status.state == "queued" and is_alive is None:
        return JobVerdict("queued", f"by a launcher on {one.host}")
    if status.state == "queued" and not is_alive:
        return JobVerdict("failed", "its launcher ended before the run began", is_final=True)
    return JobVerdict(status.state, status.reason or "")


def _last_word(one: Submission, job: str) -> str:
    """What the job's errors end with: srun's own word on a task that was killed, if there is one."""
    path = Path(one.jobs_folder) / one.name / f"{job}_0_log.err"
    try:
        lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    # That a task ended with an exit code, and srun with it, is known already.
    known = ("Exited with exit code", "Terminating StepId", "Job step aborted")
    lines = [line for line in lines[-20:] if not any(words in line for words in known)]
    own = [line for line in lines if line.startswith("srun: error")]
    return f"; {(own or lines[-1:])[0]}" if lines else ""


def settle(folder: Path, verdict: JobVerdict, status: Status) -> None:
    """Write into the record what only the scheduler knew, unless the record has moved on since `status`.

    Whoever may not write there just looks.
    """
    if not (folder / "run.json").exists():
        return
    try:
        # Not waiting for the disk, for each of thousands: what Slurm knows can be asked again.
        with RecordWriter(Record.read(folder).run, folder, durable=False) as record:
            if record.detail("updated_at") != status.content.get("updated_at"):
                return
            record.settle(verdict.state, verdict.reason)
    except (OSError, UserError, ValueError):
        return
