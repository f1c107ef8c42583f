"""Slurm's commands and their answers; every function raises SlurmError when Slurm does not answer."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from suite.errors import UserError
from suite.provenance import scheduler_job

TIMEOUT_S = 60.0
MAX_NAMES = 1000
DEFAULT_ARRAY_SIZE = 1001
# Variables by which users filter their own queries; here they would hide jobs.
FILTERS = ("SQUEUE_", "SACCT_", "SLURM_TIME_FORMAT")
# squeue's states of a job that is not over.
ACTIVE = {
    *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"),
    *("REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESIZING", "SPECIAL_EXIT", "RESV_DEL_HOLD"),
    "REVOKED",  # another cluster of the federation has it
}

SlurmFailure = Literal["unreachable", "answer_lost", "limit", "not_installed", "refused"]
# What Slurm's messages mean; the first phrase that occurs decides. Any other message is a refusal.
_KINDS: dict[SlurmFailure, tuple[str, ...]] = {
    "not_installed": ("is not on the PATH", "is not installed"),
    # The request was sent: what it asked for may have been done.
    "answer_lost": ("did not answer", "Socket timed out", "Zero Bytes", "Transport endpoint"),
    # Without munge no request is sent.
    "unreachable": ("Unable to contact", "Connection refused", "timed out", "Munge encode failed"),
    "limit": ("SubmitJob", "temporarily"),  # QOSMaxSubmitJobPerUserLimit, or MaxJobCount of the site
}
PHRASES = {phrase: kind for kind, phrases in _KINDS.items() for phrase in phrases}


class SlurmError(UserError):
    """A command of Slurm failed. The message is Slurm's own; `kind` follows from it unless it is given."""

    def __init__(self, message: str, kind: SlurmFailure | None = None) -> None:
        super().__init__(message)
        meant: list[SlurmFailure] = [meaning for phrase, meaning in PHRASES.items() if phrase in message]
        self.kind: SlurmFailure = kind or [*meant, "refused"][0]

    @property
    def is_temporary(self) -> bool:
        """Whether the same command may succeed later."""
        return self.kind in ("unreachable", "answer_lost", "limit")


@dataclass(frozen=True)
class JobState:
    """A job, or one task of an array, as Slurm reports it."""

    job: str
    state: str
    reason: str = ""
    nodes: str = ""
    name: str = ""
    exit_code: str = ""

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE

    @property
    def end(self) -> str:
        """How it ended: `TIMEOUT`, `FAILED, exit code 127`, `FAILED, killed by signal 9`."""
        code, _, number = self.exit_code.partition(":")
        if number not in ("", "0"):
            return f"{self.state}, killed by signal {number}"
        return self.state if code in ("", "0") else f"{self.state}, exit code {code}"


def ask(*command: str, timeout_s: float = TIMEOUT_S) -> str:
    """Return a command's output. Raises SlurmError with its message."""
    if shutil.which(command[0]) is None:
        raise no_slurm(command[0])
    env = {name: value for name, value in os.environ.items() if not name.startswith(FILTERS)}
    null = subprocess.DEVNULL
    try:
        done = subprocess.run(
            command,
            env=env,
            capture_output=True,
            timeout=timeout_s,
            stdin=null,
        )
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} did not answer in {timeout_s:.0f} s") from None
    except OSError as error:
        raise SlurmError(f"{command[0]} cannot be started: {error.strerror}", "refused") from None
    if done.returncode != 0:
        said = words(as_text(done.stderr or done.stdout))
        raise SlurmError(said or f"{command[0]} ended with {done.returncode}")
    return as_text(done.stdout)


def as_text(output: bytes) -> str:
    """Return what a command of Slurm printed. A site's messages may be in another encoding than UTF-8."""
    return output.decode("utf-8", "backslashreplace")


def no_slurm(command: str) -> SlurmError:
    """Return the error for a command of Slurm that is missing."""
    if command == "sacct" and shutil.which("squeue") is not None:
        return SlurmError("sacct is not installed here")
    fix = "log in to a Slurm cluster, or leave out --cluster to train on this machine"
    return SlurmError(f"{command} is not on the PATH: {fix}")


def words(text: str) -> str:
    """Join the lines that a command of Slurm printed into one: `sbatch: error: …`."""
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def said_by(command: str, message: str) -> str:
    """Return a message that begins with the command's name; most of Slurm's own do so already."""
    return message if message.startswith(f"{command}: ") else f"{command}: {message}"


def config() -> dict[str, str]:
    """Return the site's configuration by `scontrol show config`. Raises SlurmError."""
    lines = (line.partition("=") for line in ask("scontrol", "show", "config").splitlines())
    return {key.strip(): value.strip() for key, separator, value in lines if separator}


def max_array_size(site: dict[str, str]) -> int:
    """Return how many tasks an array may have, by MaxArraySize and max_array_tasks."""
    limit = re.search(r"max_array_tasks=(\d+)", site.get("SchedulerParameters", ""))
    size = re.match(r"\d+", site.get("MaxArraySize", ""))  # it may be `(null)`
    sizes = [int(size[0]) if size else DEFAULT_ARRAY_SIZE, *([int(limit[1])] if limit else [])]
    return max(1, min(sizes))


def submitted_job(answer: str, name: str) -> str | None:
    """Return the id of the job `name` that sbatch has just created, from what it printed, or None.

    Sites' wrappers print banners around it, or the number alone. Where that is not clear, the queue decides.
    """
    lines = [line.strip() for line in answer.splitlines()]
    said = [match[1] for line in lines if (match := re.search(r"Submitted batch job (\d+)", line))]
    alone = [match[1] for line in lines if (match := re.fullmatch(r"(\d+)(;\S*)?", line))]  # --parsable
    for found in (set(said), set(alone)):
        if len(found) == 1:
            return found.pop()
    try:
        jobs = {job.job.partition("_")[0] for job in queue([name]).values() if job.name == name}
    except SlurmError:
        return None
    return jobs.pop() if len(jobs) == 1 else None


def queue(names: Iterable[str]) -> dict[str, JobState]:
    """Return the jobs of these names by id, every task of an array by its own; recently ended ones too."""
    wanted = set(names)
    if not wanted:
        return {}
    # The length of a command line is limited: with very many names every job is listed instead.
    named = [f"--name={','.join(sorted(wanted))}"] if len(wanted) <= MAX_NAMES else []
    options = ("--noheader", "--all", "--array", "--states=all", *named, "--format=%i|%T|%r|%N|%j")
    rows = (line.split("|") for line in ask("squeue", *options).splitlines())
    jobs = (JobState(*row) for row in rows if len(row) == 5)
    return {job.job: replace(job, reason="") if job.reason == "None" else job for job in jobs}


def accounting(job_ids: Sequence[str]) -> dict[str, JobState]:
    """Return what sacct has of these jobs, each task of an array by its id."""
    if not job_ids:
        return {}
    fields = "JobID,State,ExitCode,NodeList,JobName"
    text = ask("sacct", "-X", "-n", "-P", f"--jobs={','.join(sorted(set(job_ids)))}", f"--format={fields}")
    found: dict[str, JobState] = {}
    for line in text.splitlines():
        job, state, exit_code, nodes, name = (line.split("|", 4) + [""] * 5)[:5]
        # `CANCELLED by 0` names the user too.
        one = JobState(job, state.split(" ")[0], nodes=nodes, name=name, exit_code=exit_code)
        found |= dict.fromkeys(_task_ids(job), one)
    return found


def shown_job(job: str, timeout_s: float = TIMEOUT_S) -> dict[str, str]:
    """Return the fields of `scontrol show job`, such as JobState. Raises SlurmError."""
    said = ask("scontrol", "--oneliner", "show", "job", job, timeout_s=timeout_s)
    pairs = (word.partition("=") for word in said.split())
    return {key: value for key, _, value in pairs}


def is_preempted(job: str) -> bool:
    """Return whether Slurm has asked this running job to make room for another since its last start."""
    shown = shown_job(job)
    times = [shown.get("StartTime", ""), shown.get("PreemptTime", "")]
    # ISO 8601 orders as text; the field is `None` or missing where the job is not preempted.
    are_times = all(time[:1].isdigit() for time in times)
    return shown.get("JobState") == "RUNNING" and are_times and times[0] <= times[1]


def current_job() -> str | None:
    """Return the job that this process belongs to: `12`, or `12_3` in an array. None outside a job."""
    return scheduler_job(os.environ)


def for_each(jobs: Iterable[str], listed: dict[str, JobState]) -> dict[str, JobState]:
    """Return `listed` with an entry for each task of an array that Slurm lists by the array's id only."""
    arrays = {job: job.partition("_")[0] for job in jobs}
    return {job: listed[array] for job, array in arrays.items() if array in listed} | listed


def cancelled_in_waiting_arrays(missing: Iterable[str], listed: dict[str, JobState]) -> dict[str, JobState]:
    """Return the tasks that were cancelled before they began, of arrays with other tasks that still wait.

    Slurm keeps no record of such a task: neither squeue nor sacct lists it until the whole array has begun.
    """
    waiting: dict[str, JobState] = {}
    for job in listed.values():
        if "_" in job.job and job.state == "PENDING":
            waiting.setdefault(job.job.partition("_")[0], job)
    return {
        job: JobState(job, "CANCELLED", name=waiting[array].name)
        for job in missing
        if job not in listed and "_" in job and (array := job.partition("_")[0]) in waiting
    }


def _task_ids(job: str) -> list[str]:
    """Return the task ids behind `12_[3-5,9%2]`, in which Slurm lists tasks that have not begun."""
    match = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", job)
    if match is None:
        return [job]
    spans = [part.partition("-") for part in match[2].split(",")]
    return [f"{match[1]}_{n}" for low, _, high in spans for n in range(int(low), int(high or low) + 1)]
