"""Runs as processes on this machine: start, follow, stop.

The launcher never imports torch. Each run is a process (or torchrun's group of them) that writes its own
record; the launcher reads records to show progress and to tell how a run ended.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs import exit_codes
from jobs.checks import check_batches, check_folders, is_completed
from jobs.local.gpus import share_out, visible_gpus
from jobs.local.progress import ProgressView
from jobs.local.stop import send, stop_signals
from jobs.outcome import Outcome
from suite.errors import UserError
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import Record, RecordWriter

POLL_S = 0.2
GRACE_S = 30.0


@dataclass(frozen=True)
class _Child:
    """A run's process (torchrun with several ranks)."""

    run: Run
    folder: Path
    process: "subprocess.Popen[bytes]"
    gpus: dict[str, str]
    started_at: float


def run_all(runs: Sequence[Run], output_dir: Path, jobs: int, ranks: int, view: ProgressView) -> Outcome:
    """Train every run that is not completed, `jobs` at a time with `ranks` processes each.

    Raises UserError before anything starts when a folder cannot be written or is being trained in, and
    when the batches do not fit the ranks or the runs not the GPUs. Leaves no process behind.
    """
    waiting = [run for run in runs if not is_completed(output_dir / run.folder_name)]
    outcome = Outcome(skipped=[output_dir / run.folder_name for run in runs if run not in waiting])
    uses_gpus = any(run.system.device != "cpu" for run in waiting)
    check_batches(waiting, ranks)
    free = share_out(visible_gpus(os.environ) if uses_gpus else [], jobs, ranks)
    check_folders(waiting, output_dir)
    threads = max(1, len(os.sched_getaffinity(0)) // (jobs * ranks))
    view.start(total=len(runs), skipped=len(outcome.skipped))
    running: list[_Child] = []
    with stop_signals() as stop, view:
        try:
            while (waiting and stop.first is None) or running:
                while waiting and free and stop.first is None:
                    run = waiting.pop(0)
                    folder = output_dir / run.folder_name
                    try:
                        running.append(_start(run, folder, ranks, threads, free[0]))
                    except (OSError, UserError) as error:
                        is_usage = isinstance(error, UserError)
                        outcome.failed.append(
                            (folder, exit_codes.BAD_USAGE if is_usage else exit_codes.FAILURE)
                        )
                        view.refused(run, str(error))
                    else:
                        del free[0]
                        view.started(folder, run)
                time.sleep(POLL_S)
                stop.forward(child.process for child in running)
                for child in list(running):
                    code = child.process.poll()
                    view.update(child.folder, RunPaths(child.folder))
                    if code is not None:
                        running.remove(child)
                        free.append(child.gpus)
                        _settle(child, outcome, view)
        finally:
            _end([child.process for child in running])
    outcome.stopped_by = stop.first
    return outcome


def _start(run: Run, folder: Path, ranks: int, threads: int, gpus: dict[str, str]) -> _Child:
    started_at = time.time()
    with RecordWriter(run, folder):
        pass  # leaves the run.json that the process reads
    command = ["jobs.process.worker", str(folder)]
    if ranks > 1:
        command = ["jobs.process.torchrun", "--standalone", f"--nproc-per-node={ranks}", "-m", *command]
    env = os.environ | gpus
    if run.system.torch_threads is None:
        # Otherwise every process takes every core, and they stand in one another's way.
        env.setdefault("OMP_NUM_THREADS", str(threads))
    with RunPaths(folder).log.open("ab") as log:
        # A session of its own: Ctrl-C reaches the launcher alone, which stops its runs in good order.
        process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=log, stderr=log, env=env, start_new_session=True
        )
    return _Child(run, folder, process, gpus, started_at)


def _settle(child: _Child, outcome: Outcome, view: ProgressView) -> None:
    """File how a run ended; what its record says counts, the exit code where it could not say."""
    record = Record.read(child.folder)
    code, state, reason = child.process.returncode, record.state, record.reason
    if record.died_silently or record.status.get("updated_at", 0.0) < child.started_at:
        end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        state, reason = "failed", f"its process {end}; see {record.paths.log.name}"
        try:
            with RecordWriter(child.run, child.folder) as writer:
                writer.status(state, reason=reason)
        except (OSError, UserError) as error:
            reason += f"; its record could not be written: {error}"
    if state == "completed":
        outcome.completed.append(child.folder)
    else:
        by_state = {"preempted": exit_codes.PREEMPTED, "diverged": exit_codes.SOME_RUNS_FAILED}
        code = code if code > 0 else exit_codes.FAILURE
        outcome.failed.append((child.folder, by_state.get(state, code)))
    view.ended(child.folder, state, reason)


def _end(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """After an error of the launcher's own: let what still runs write a checkpoint, for a while."""
    send(signal.SIGTERM, processes)
    deadline = time.monotonic() + GRACE_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            send(signal.SIGKILL, [process])
            process.wait()
