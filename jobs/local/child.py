"""A run as a process of this machine: started, read to its end, ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.local.stop import send
from suite.errors import UserError
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import Record, RecordWriter, State, forget_request

GRACE_S = 30.0
WAS_KILLED = "was killed by"


@dataclass(frozen=True)
class Child:
    """A run's process (torchrun with several ranks), and the variables that are its own."""

    run: Run
    folder: Path
    process: "subprocess.Popen[bytes]"
    variables: dict[str, str]
    started_at: float


def threads_of_a_rank(ranks_at_a_time: int) -> int:
    """CPU threads for each of so many ranks on this machine."""
    return max(1, len(os.sched_getaffinity(0)) // ranks_at_a_time)


def start(run: Run, folder: Path, ranks: int, threads: int, variables: dict[str, str]) -> Child:
    """Start training. Raises UserError when the folder cannot be written or another process trains there."""
    started_at = time.time()
    with RecordWriter(run, folder):  # leaves the run.json that the process reads
        forget_request(RunPaths(folder))
    command = ["jobs.local.worker", str(folder)]
    if ranks > 1:
        command = ["jobs.local.torchrun", "--standalone", f"--nproc-per-node={ranks}", "-m", *command]
    env = {**os.environ, **variables}
    if run.system.torch_threads is None:
        # Otherwise every process takes every core, and they stand in one another's way.
        env.setdefault("OMP_NUM_THREADS", str(threads))
    with RunPaths(folder).log.open("ab") as log:
        # A session of its own: Ctrl-C reaches the launcher alone, which stops its runs in good order.
        process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=log, stderr=log, env=env, start_new_session=True
        )
    return Child(run, folder, process, variables, started_at)


def settle(child: Child) -> tuple[State, str | None]:
    """How a run ended: what its record says counts, the exit code where it could not say, and is noted."""
    record = Record.read(child.folder)
    code, state, reason = child.process.returncode, record.state, record.reason
    if record.died_silently or record.status.get("updated_at", 0.0) < child.started_at:
        how = f"{WAS_KILLED} {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        state, reason = "failed", f"its process {how}; see {record.paths.log.name}"
        try:
            with RecordWriter(child.run, child.folder) as writer:
                writer.status(state, reason=reason)
        except (OSError, UserError) as error:
            reason += f"; its record could not be written: {error}"
    return state, reason


def end(processes: "Sequence[subprocess.Popen[bytes]]", grace_s: float = GRACE_S) -> None:
    """Let what still runs write a checkpoint, for a while; after that it is killed."""
    send(signal.SIGTERM, processes)
    deadline = time.monotonic() + grace_s
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            send(signal.SIGKILL, [process])
            process.wait()
