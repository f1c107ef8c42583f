"""The backend `local`: runs are processes of a launcher that trains in the background on this machine.

The launcher is this module as a program: python -m jobs.cluster.local_backend OUTPUT_DIR TOKEN [LAUNCHER ...]
It waits for the launchers that it is given to end.
"""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jobs.checks import read_run
from jobs.cluster.backend import (
    ActiveJob,
    Cluster,
    JobVerdict,
    NewJob,
    RunStatus,
    SchedulerAnswer,
    SubmittedRun,
    ask_to_end,
    settle,
)
from jobs.cluster.ledger import Ledger, Submission, private_folder
from jobs.local.launches import start_ticks
from jobs.sources import SNAPSHOT_VARIABLE, check_own_sources
from suite.errors import UserError
from suite.paths import RunPaths
from suite.record import RecordWriter, Status, read_status

LOG = "launcher.log"
POLL_S = 1.0


class LocalCluster(Cluster):
    """This machine, without a scheduler."""

    scheduler: Literal["local"] = "local"

    @property
    def runs_at_a_time(self) -> int:
        return self.array_parallelism or 1


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
        folder = private_folder(job.submission.folder)
        env = os.environ | cluster.variables
        path = filter(None, [job.submission.snapshot, env.get("PYTHONPATH")])
        env |= {"PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}
        env[SNAPSHOT_VARIABLE] = job.submission.snapshot
        null = subprocess.DEVNULL
        try:
            with (folder / LOG).open("ab") as log:
                process = subprocess.Popen(
                    _command(job), env=env, stdin=null, stdout=log, stderr=log, start_new_session=True
                )
        except OSError as error:
            raise UserError(f"the launcher could not be started: {error}") from None
        return f"{process.pid}@{start_ticks(process.pid)}"

    def job_ids(self, submission: Submission, job_id: str | None = None) -> dict[str, str]:
        job_id = job_id or submission.job_id
        return {} if job_id is None else dict.fromkeys(submission.folders, job_id)

    def active(self, submissions: Sequence[Submission], output_dir: Path) -> dict[str, ActiveJob]:
        alive = [one for one in submissions if _is_alive(one) is not False]
        jobs = {name: job for one in alive for name, job in self.job_ids(one).items()}
        states = {name: read_status(RunPaths(output_dir / name)).state for name in jobs}
        return {name: ActiveJob(job) for name, job in jobs.items() if states[name] in ("queued", "running")}

    def query(
        self, runs: Sequence[SubmittedRun], *, is_being_submitted: bool
    ) -> tuple[dict[Path, SchedulerAnswer], list[str]]:
        verdicts = {r.folder: _verdict(r.status, r.submission, is_being_submitted) for r in runs}
        return {r.folder: SchedulerAnswer(r.submission.job_id, "", verdicts[r.folder]) for r in runs}, []

    def out_of_reach(self, submission: Submission) -> str | None:
        where = f"the launcher of {submission.name} runs on {submission.host}: cancel there"
        return where if _is_alive(submission) is None else None

    def cancel(self, runs: Sequence[RunStatus]) -> None:
        for run in runs:
            ask_to_end(run)  # before its launcher is: a signal does not say what it is for
        for one in {run.submission.token: run.submission for run in runs if run.submission}.values():
            if _is_alive(one) and one.job_id is not None:
                os.kill(int(one.job_id.partition("@")[0]), signal.SIGTERM)
        for run in runs:
            if run.state == "queued":
                verdict = JobVerdict("cancelled", "cancelled before it began")
                settle(run.folder, verdict, read_status(RunPaths(run.folder)))

    def log_files(self, submission: Submission, job: str, rank: int) -> list[Path]:
        return [submission.folder / LOG]

    def current_job(self) -> str | None:
        return None  # the launcher's runs are ordinary processes


def _is_alive(one: Submission) -> bool | None:
    """Return whether a submission's launcher runs; None when it is on another machine."""
    if one.job_id is None:
        return False
    return _runs(one.job_id) if one.host == socket.gethostname() else None


def _runs(job: str) -> bool:
    pid, _, started = job.partition("@")
    return start_ticks(int(pid)) == started


def _command(job: NewJob) -> list[str]:
    folder = str(job.output_dir.absolute())
    return [sys.executable, "-m", "jobs.cluster.local_backend", folder, job.submission.token, *job.after]


def _verdict(status: Status, one: Submission, is_being_submitted: bool) -> JobVerdict | None:
    """Judge a queued run by whether its launcher lives. Any other record decides alone: returns None."""
    if status.state != "queued":
        return None
    if one.job_id is None and is_being_submitted:
        return JobVerdict("queued", "being submitted")
    if (is_alive := _is_alive(one)) is None:
        return JobVerdict("queued", f"by a launcher on {one.host}")
    ended = JobVerdict("failed", "its launcher ended before the run began", is_final=True)
    return None if is_alive else ended


def main() -> int:
    """Train the runs of a submission that were not cancelled, and return the exit code."""
    from rich.console import Console

    from jobs.cluster.clusters import parse_cluster
    from jobs.local.launcher import run_all
    from jobs.local.progress import ProgressView

    output_dir, token, *former = Path(sys.argv[1]), *sys.argv[2:]
    while any(map(_runs, former)):
        time.sleep(POLL_S)
    (one,) = (s for s in Ledger(output_dir).read() if s.token == token)
    cluster = parse_cluster(one.cluster, token)
    folders = [output_dir / name for name in one.folders]
    runs = [read_run(f) for f in folders if read_status(RunPaths(f)).state != "cancelled"]
    view = ProgressView(Console(force_terminal=False, width=200))
    try:
        check_own_sources()
        outcome = run_all(runs, output_dir, cluster.runs_at_a_time or 1, cluster.ranks, view)
    except UserError as error:  # such as too few GPUs: `status` shows it from the records
        for run in runs:
            with RecordWriter(run, output_dir / run.folder_name) as record:
                record.status("failed", reason=str(error))
        raise
    print(outcome)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
