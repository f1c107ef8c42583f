"""Runs as processes on this machine: start, follow, stop.

The launcher never imports torch. Each run is a process (or torchrun's group of them) that writes its own
record; the launcher reads records to show progress and to tell how a run ended.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from jobs import exit_codes
from jobs.checks import check_folders, is_completed
from jobs.local.child import Child, end, settle, start, threads_of_a_rank
from jobs.local.gpus import share_out, visible_gpus
from jobs.local.progress import ProgressView
from jobs.local.stop import stop_signals
from jobs.outcome import LaunchOutcome
from suite.errors import UserError
from suite.experiment import Run, check_batches
from suite.paths import RunPaths

POLL_S = 0.2


def run_all(
    runs: Sequence[Run], output_dir: Path, jobs: int, ranks: int, view: ProgressView
) -> LaunchOutcome:
    """Train every run that is not completed, `jobs` at a time with `ranks` processes each.

    Raises UserError before anything starts when a folder cannot be written or is being trained in, and
    when the batches do not fit the ranks or the runs not the GPUs. Leaves no process behind.
    """
    waiting = [run for run in runs if not is_completed(output_dir / run.folder_name)]
    outcome = LaunchOutcome(skipped=[output_dir / run.folder_name for run in runs if run not in waiting])
    uses_gpus = any(run.system.device != "cpu" for run in waiting)
    check_batches(waiting, ranks)
    free = share_out(visible_gpus(os.environ) if uses_gpus else [], jobs, ranks)
    check_folders(waiting, output_dir)
    threads = threads_of_a_rank(jobs * ranks)
    view.start(total=len(runs), skipped=len(outcome.skipped))
    running: list[Child] = []
    with stop_signals() as stop, view:
        try:
            while (waiting and stop.first is None) or running:
                while waiting and free and stop.first is None:
                    run = waiting.pop(0)
                    folder = output_dir / run.folder_name
                    try:
                        running.append(start(run, folder, ranks, threads, free[0]))
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
                        free.append(child.variables)
                        _settle(child, outcome, view)
        finally:
            end([child.process for child in running])
    outcome.stopped_by = stop.first
    return outcome


def _settle(child: Child, outcome: LaunchOutcome, view: ProgressView) -> None:
    """File how a run ended."""
    state, reason = settle(child)
    code = child.process.returncode
    if state == "completed":
        outcome.completed.append(child.folder)
    else:
        by_state = {"preempted": exit_codes.PREEMPTED, "diverged": exit_codes.SOME_RUNS_FAILED}
        code = code if code > 0 else exit_codes.FAILURE
        outcome.failed.append((child.folder, by_state.get(state, code)))
    view.ended(child.folder, state, reason)
