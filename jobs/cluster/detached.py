"""The cluster `local`: a launcher in the background that trains a submission's runs on this machine.

python -m jobs.cluster.detached OUTPUT_DIR TOKEN
"""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
from rich.console import Console

from jobs.cluster.ledger import Ledger, Submission
from jobs.cluster.private_folder import private_folder
from suite.errors import UserError
from suite.paths import RunPaths
from suite.record import RecordWriter, read_status

LOG = "launcher.log"


def start(entry: Submission, ledger: Ledger) -> str:
    """Start the launcher, detached from this terminal; its id, `pid@start`. Raises UserError."""
    folder = private_folder(Path(entry.jobs_folder) / entry.name)
    env = os.environ | {str(k): str(v) for k, v in entry.cluster["environment"].items()}
    path = [entry.snapshot, *filter(None, [env.get("PYTHONPATH")])]
    env |= {"PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}
    try:
        with (folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                command(entry, ledger.output_dir),
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
    except OSError as error:
        raise UserError(f"the launcher could not be started: {error}") from None
    return f"{process.pid}@{_started(process.pid)}"


def command(entry: Submission, output_dir: Path) -> list[str]:
    """The launcher's command line."""
    return [sys.executable, "-m", "jobs.cluster.detached", str(output_dir.absolute()), entry.token]


def is_alive(one: Submission) -> bool | None:
    """Whether a submission's launcher runs; None when it is on another machine, which cannot be told."""
    if one.job_id is None:
        return False
    if one.host != socket.gethostname():
        return None
    pid, _, started = one.job_id.partition("@")
    return _started(int(pid)) == started


def stop(one: Submission) -> None:
    """Ask a submission's launcher to end: its runs write a checkpoint first."""
    if is_alive(one) and one.job_id is not None:
        os.kill(int(one.job_id.partition("@")[0]), signal.SIGTERM)


def _started(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None if it has ended. Unique with its id."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        since_boot_s = process.create_time() - psutil.boot_time()
    except psutil.Error:
        return None
    return str(round(since_boot_s * os.sysconf("SC_CLK_TCK")))


def main() -> int:
    """Train the submission's runs that are still queued."""
    # Only here: `status` asks this module whether a launcher lives, and need not wait for YAML's.
    from jobs.cluster.clusters import LocalCluster, parse_cluster

    output_dir, token = Path(sys.argv[1]), sys.argv[2]
    (one,) = (s for s in Ledger(output_dir).read() if s.token == token)
    cluster = parse_cluster(one.cluster, token)
    assert isinstance(cluster, LocalCluster)

    from jobs.checks import read_run
    from jobs.local.launcher import run_all
    from jobs.local.progress import ProgressView

    folders = [output_dir / name for name in one.folders]
    runs = [read_run(f) for f in folders if read_status(RunPaths(f)).state != "cancelled"]
    view = ProgressView(Console(force_terminal=False, width=200))
    try:
        outcome = run_all(runs, output_dir, cluster.array_parallelism or 1, cluster.ranks, view)
    except UserError as error:  # too few GPUs, say: nobody is there to read it, but the records are
        for run in runs:
            with RecordWriter(run, output_dir / run.folder_name) as record:
                record.status("failed", reason=str(error))
        raise
    print(outcome)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
