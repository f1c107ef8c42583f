"""A run as a process of this machine: starts it, and reads from its record how it ended."""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.local.process import THREADS, ProcessSpec, RunProcess, StartProcess
from suite.errors import UserError
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import RecordWriter, State, clear_stop_request, read_status, read_stop_request
from suite.record.rank_errors import why_aborted
from suite.signals import STOP_SIGNALS

WAS_KILLED = "was killed by"


@dataclass(frozen=True)
class Child:
    """A run's process (with several ranks, that of their leader), and its own environment variables."""

    run: Run
    folder: Path
    process: RunProcess
    variables: dict[str, str]
    started_at: float


def threads_of_a_rank(ranks_at_a_time: int) -> int:
    """Return how many CPU threads each rank takes when so many train on this machine."""
    return max(1, len(os.sched_getaffinity(0)) // ranks_at_a_time)


def environment_of(runs: Sequence[Run], threads: int, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for the processes of these runs: this process's, with `variables`.

    It sets the number of threads, unless one of the runs sets `system.torch_threads`.
    """
    env = {**os.environ, **variables}
    if all(run.system.torch_threads is None for run in runs):
        env.setdefault(THREADS, str(threads))  # otherwise every process takes every core
    return env


def start(
    run: Run, folder: Path, ranks: int, threads: int, variables: dict[str, str], start_process: StartProcess
) -> Child:
    """Start training. Raises UserError when the folder cannot be written or another process trains there."""
    started_at = time.time()
    with RecordWriter(run, folder):  # writes the run.json that the process reads
        clear_stop_request(RunPaths(folder))
    environment, log = environment_of([run], threads, variables), RunPaths(folder).log
    process = start_process(ProcessSpec("jobs.local.worker", (str(folder),), environment, log, ranks))
    return Child(run, folder, process, variables, started_at)


def settle(child: Child) -> tuple[State, str | None]:
    """Return how a run ended, and why: from its record, or from the exit code, which is then recorded."""
    record, log = read_status(RunPaths(child.folder)), RunPaths(child.folder).log
    code, state, reason = child.process.poll(), record.state, record.reason
    assert code is not None
    if record.damage is None and (
        record.died_silently or record.content.get("updated_at", 0.0) < child.started_at
    ):
        how = f"{WAS_KILLED} {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        # A log goes on over a run's attempts: an abort in it says nothing of another signal.
        aborted = why_aborted(log, record.hang) if code > 0 or code == -signal.SIGABRT else None
        state, reason = "failed", aborted or f"its process {how}; see {log.name}"
        if -code in STOP_SIGNALS:  # which training obeys; this one came while the process was starting
            request = read_stop_request(RunPaths(child.folder))
            state = "preempted" if request is None else request.state
            reason = f"its process {how} before it could train"
        try:
            with RecordWriter(child.run, child.folder) as writer:
                writer.status(state, reason=reason)
        except (OSError, UserError) as error:
            reason += f"; its record could not be written: {error}"
    return state, reason
