"""The backend `local`: runs are processes of a launcher that trains in the background on this machine."""

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jobs.cluster.backend import Answer, Cluster, NewJob, SubmittedRun
from jobs.cluster.job_verdicts import JobVerdict, is_unsettled, settle
from jobs.cluster.ledger import Submission
from jobs.cluster.private_folder import private_folder
from jobs.cluster.run_status import RunStatus
from suite.errors import UserError
from suite.paths import RunPaths
from suite.record import Status, read_status

LOG = "launcher.log"


class LocalCluster(Cluster):
    """This machine, without a scheduler."""

    scheduler: Literal["local"] = "local"

    @property
    def ranks(self) -> int:
        return self.ntasks_per_node or 1


class LocalBackend:
    """One detached launcher for each submission. A job's id is `pid@start`, in clock ticks."""

    cluster_type = LocalCluster
    job_noun = "launcher"
    ends_together = True

    def max_runs(self) -> int | None:
        return None

    def preview(self, job: NewJob, cluster: LocalCluster) -> str:
        return shlex.join(_command(job))

    def submit(self, job: NewJob, cluster: LocalCluster) -> str:
        one = job.submission
        folder = private_folder(one.folder)
        env = os.environ | cluster.environment
        path = [one.snapshot, *filter(None, [env.get("PYTHONPATH")])]
        env |= {"PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}
        try:
            with (folder / LOG).open("ab") as log:
                process = subprocess.Popen(
                    _command(job),
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            raise UserError(f"the launcher could not be started: {error}") from None
        return f"{process.pid}@{start_ticks(process.pid)}"

    def job_ids(self, submission: Submission, job_id: str | None = None) -> dict[str, str]:
        job_id = job_id or submission.job_id
        return {} if job_id is None else dict.fromkeys(submission.folders, job_id)

    def active(self, submissions: Sequence[Submission], output_dir: Path) -> dict[str, str]:
        return {
            name: job
            for one in submissions
            if is_alive(one) is not False
            for name, job in self.job_ids(one).items()
            if read_status(RunPaths(output_dir / name)).state in ("queued", "running")
        }

    def query(
        self, runs: Sequence[SubmittedRun], *, is_being_submitted: bool
    ) -> tuple[dict[Path, Answer], list[str]]:
        answers = {}
        for run in runs:
            one = run.submission
            verdict = _verdict(run.status, one, is_being_submitted) if is_unsettled(run.status) else None
            answers[run.folder] = Answer(self.job_ids(one).get(run.folder.name), verdict=verdict)
        return answers, []

    def out_of_reach(self, submission: Submission) -> str | None:
        if is_alive(submission) is None:
            return f"the launcher of {submission.name} runs on {submission.host}: cancel there"
        return None

    def cancel(self, runs: Sequence[RunStatus]) -> None:
        for one in {run.submission.token: run.submission for run in runs if run.submission}.values():
            if is_alive(one) and one.job_id is not None:
                os.kill(int(one.job_id.partition("@")[0]), signal.SIGTERM)
        for run in runs:
            if run.state == "queued":
                verdict = JobVerdict("cancelled", "cancelled before it began")
                settle(run.folder, verdict, read_status(RunPaths(run.folder)))

    def log_files(self, submission: Submission, job: str, rank: int) -> list[Path]:
        return [submission.folder / LOG]

    def current_job(self) -> str | None:
        return None  # the launcher's runs are ordinary processes


def is_alive(one: Submission) -> bool | None:
    """Return whether a submission's launcher runs; None when it is on another machine."""
    if one.job_id is None:
        return False
    if one.host != socket.gethostname():
        return None
    pid, _, started = one.job_id.partition("@")
    return start_ticks(int(pid)) == started


def start_ticks(pid: int) -> str | None:
    """Return when a process began, in clock ticks since boot; None when it has ended.

    A process id is reused; together with this it is unique. Read from /proc, since psutil gives the time of a
    clock that may be set while the process runs.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _command(job: NewJob) -> list[str]:
    folder = str(job.output_dir.absolute())
    return [sys.executable, "-m", "jobs.cluster.detached", folder, job.submission.token]


def _verdict(status: Status, one: Submission, is_being_submitted: bool) -> JobVerdict:
    """Judge a record that does not say how the run ended by whether its launcher lives."""
    if status.state == "queued" and one.job_id is None and is_being_submitted:
        return JobVerdict("queued", "being submitted")
    launcher_lives = is_alive(one)
    if status.state == "queued" and launcher_lives is None:
        return JobVerdict("queued", f"by a launcher on {one.host}")
    if status.state == "queued" and not launcher_lives:
        return JobVerdict("failed", "its launcher ended before the run began", is_final=True)
    return JobVerdict(status.state, status.reason or "")
