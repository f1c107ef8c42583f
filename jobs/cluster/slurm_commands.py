"""Slurm's commands, asked in batches, and their answers. What Slurm says in refusing is passed on."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from suite.errors import UserError

TIMEOUT_S = 60.0
MAX_NAMES = 1000
# What users set for their own eyes would hide jobs from ours.
FILTERS = ("SQUEUE_", "SACCT_", "SLURM_TIME_FORMAT")
# squeue's words for a job that will still do something.
ACTIVE = {
    *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"),
    *("REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESIZING", "SPECIAL_EXIT", "RESV_DEL_HOLD"),
    "REVOKED",  # another cluster of the federation has it
}


# What Slurm says while it is down, or while somebody's jobs are as many as they may be.
_PASSING = (
    *("Unable to contact", "timed out", "did not answer", "Zero Bytes", "Transport endpoint"),
    *("SubmitJob", "temporarily", "Connection refused"),  # as in QOSMaxSubmitJobPerUserLimit
)


class SlurmError(UserError):
    """Slurm refused, or did not answer; the message holds its own words."""

    @property
    def is_passing(self) -> bool:
        """Whether the same command may do later."""
        return any(sign in str(self) for sign in _PASSING)


@dataclass(frozen=True)
class JobState:
    """A job, or one task of an array, as Slurm sees it."""

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
        """How it ended, in a few words: `TIMEOUT`, `FAILED, exit code 127`, `FAILED, killed by signal 9`."""
        code, _, number = self.exit_code.partition(":")
        if number not in ("", "0"):
            return f"{self.state}, killed by signal {number}"
        return self.state if code in ("", "0") else f"{self.state}, exit code {code}"


def ask(*command: str, timeout_s: float = TIMEOUT_S) -> str:
    """A command's output. Raises SlurmError with what it said."""
    if shutil.which(command[0]) is None:
        raise no_slurm(command[0])
    try:
        done = subprocess.run(
            command,
            env={name: value for name, value in os.environ.items() if not name.startswith(FILTERS)},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} did not answer in {timeout_s:.0f} s") from None
    if done.returncode != 0:
        raise SlurmError(words(done.stderr or done.stdout) or f"{command[0]} ended with {done.returncode}")
    return done.stdout


def no_slurm(command: str) -> SlurmError:
    """What to say where Slurm's commands are missing."""
    if command == "sacct" and shutil.which("squeue") is not None:
        return SlurmError("sacct is not installed here")
    return SlurmError(
        f"{command} is not on the PATH: this is no machine of a Slurm cluster; log in to one, or leave out "
        "--cluster to train on this machine"
    )


def words(text: str) -> str:
    """What a command of Slurm said, in one line: `sbatch: error: …`."""
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def config() -> dict[str, str]:
    """The site's configuration, as `scontrol show config` tells it."""
    lines = (line.partition("=") for line in ask("scontrol", "show", "config").splitlines())
    return {key.strip(): value.strip() for key, separator, value in lines if separator}


def max_array_size(site: dict[str, str]) -> int:
    """How many tasks an array may have, by MaxArraySize (one more than the highest number) and more."""
    limit = re.search(r"max_array_tasks=(\d+)", site.get("SchedulerParameters", ""))
    sizes = [int(site.get("MaxArraySize", "1001")), *([int(limit[1])] if limit else [])]
    return max(1, min(sizes))


_FIELDS = "%i|%T|%r|%N|%j"


def queue(names: Iterable[str]) -> dict[str, JobState]:
    """Jobs of these names by id, each task of an array for itself; also those that ended a moment ago.

    One query. Raises SlurmError when Slurm does not answer.
    """
    wanted = set(names)
    if not wanted:
        return {}
    # A command line has its limit: with very many names it is cheaper to leave out what is not ours here.
    named = [f"--name={','.join(sorted(wanted))}"] if len(wanted) <= MAX_NAMES else []
    text = ask("squeue", "--noheader", "--all", "--array", "--states=all", *named, f"--format={_FIELDS}")
    rows = (line.split("|") for line in text.splitlines())
    return {row[0]: JobState(row[0], row[1], row[2], row[3], row[4]) for row in rows if len(row) == 5}


def accounting(job_ids: Sequence[str]) -> dict[str, JobState]:
    """What sacct keeps of these jobs, each task of an array for itself. One query. Raises SlurmError."""
    if not job_ids:
        return {}
    fields = "JobID,State,ExitCode,NodeList,JobName"
    text = ask("sacct", "-X", "-n", "-P", f"--jobs={','.join(sorted(set(job_ids)))}", f"--format={fields}")
    found: dict[str, JobState] = {}
    for line in text.splitlines():
        job, state, exit_code, nodes, name = (line.split("|", 4) + [""] * 5)[:5]
        # `CANCELLED by 0`: who it was is another column's business.
        one = JobState(job, state.split(" ")[0], nodes=nodes, name=name, exit_code=exit_code)
        for single in _spread(job):
            found[single] = one
    return found


def is_preempted(job: str) -> bool:
    """Whether this running job has been told to leave for a more important one, since it was started.

    Raises SlurmError when Slurm does not answer.
    """
    words = (word.partition("=") for word in ask("scontrol", "--oneliner", "show", "job", job).split())
    told = {key: value for key, _, value in words}
    times = [told.get("StartTime", ""), told.get("PreemptTime", "")]
    # ISO 8601 orders as text; `None`, or nothing, where nobody preempts it.
    are_times = all(time[:1].isdigit() for time in times)
    return told.get("JobState") == "RUNNING" and are_times and times[0] <= times[1]


def for_each(jobs: Iterable[str], told: dict[str, JobState]) -> dict[str, JobState]:
    """What was told, with a line for each of these jobs where one for its whole array must do.

    An array that ended before any task began is listed under its own id alone.
    """
    arrays = {job: job.partition("_")[0] for job in jobs}
    return {job: told[array] for job, array in arrays.items() if array in told} | told


def _spread(job: str) -> list[str]:
    """`12_[3-5,9%2]` is how tasks that have not begun are listed together."""
    match = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", job)
    if match is None:
        return [job]
    numbers: list[int] = []
    for part in match[2].split(","):
        low, _, high = part.partition("-")
        numbers += range(int(low), int(high or low) + 1)
    return [f"{match[1]}_{number}" for number in numbers]
