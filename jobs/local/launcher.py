"""Trains runs as processes of this machine: starts them, shows their progress, stops them.

The launcher never imports torch. Each run is a process (or several ranks) that writes its own record; from it
the launcher reads a run's progress and how it ended.
"""

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from jobs import exit_codes
from jobs.checks import check_folders, check_loggers, check_shared_memory, is_completed
from jobs.local.child import Child, environment_of, settle, start, threads_of_a_rank
from jobs.local.fork_client import process_starter
from jobs.local.gpus import VisibleGpus, share_out, visible_gpus
from jobs.local.launches import Launch
from jobs.local.process import StartProcess, end
from jobs.local.progress import ProgressView
from jobs.local.stop import Stop
from jobs.outcome import LaunchOutcome
from suite.errors import UserError
from suite.experiment import Run, check_batches
from suite.paths import RunPaths
from suite.signals import stop_signals_to

POLL_S = 0.1


def run_all(
    runs: Sequence[Run],
    output_dir: Path,
    jobs: int,
    ranks: int,
    view: ProgressView,
    start_process: StartProcess | None = None,
) -> LaunchOutcome:
    """Train every run that is not completed, `jobs` at a time with `ranks` processes each.

    `start_process`: by default the quickest way. No process is left behind. Raises UserError before anything
    starts for folders that cannot be written or are in use, batches that do not fit the ranks, and too few
    GPUs or too little shared memory.
    """
    outcome, waiting = LaunchOutcome(), list[Run]()
    unreadable: list[tuple[Run, str]] = []
    for run in runs:
        folder = output_dir / run.folder_name
        try:
            if is_completed(folder):
                outcome.skipped.append(folder)
            else:
                waiting.append(run)
        except UserError as error:
            unreadable.append((run, str(error)))
            outcome.add(folder, exit_codes.of(error))
    uses_gpus = any(run.system.device != "cpu" for run in waiting)
    check_batches(waiting, ranks)
    check_shared_memory(waiting, jobs, ranks)
    check_loggers(waiting)
    free = share_out(visible_gpus(os.environ) if uses_gpus else VisibleGpus([]), jobs, ranks)
    check_folders(waiting, output_dir)
    threads = threads_of_a_rank(jobs * ranks)
    view.start(total=len(runs), skipped=len(outcome.skipped))
    view.waits_for = "torch"
    for run, sentence in unreadable:
        view.refused(run, sentence)
    running: list[Child] = []
    stop = Stop()
    launch = Launch(output_dir, [run.folder_name for run in waiting])
    with stop_signals_to(stop.handle), view, launch, ExitStack() as stack:
        if start_process is None:
            environment = environment_of(waiting, threads, {})
            start_process = stack.enter_context(process_starter(len(waiting) * ranks, environment))
        try:
            while (waiting and stop.first is None) or running:
                while waiting and free and stop.first is None:
                    run = waiting.pop(0)
                    folder = output_dir / run.folder_name
                    try:
                        running.append(start(run, folder, ranks, threads, free[0], start_process))
                    except (OSError, UserError) as error:
                        outcome.add(folder, exit_codes.of(error))
                        view.refused(run, str(error))
                    else:
                        del free[0]
                        launch.started(folder)
                        view.started(folder, run)
                time.sleep(POLL_S)
                stop.forward([child.process for child in running])
                for child in list(running):
                    code = child.process.poll()
                    view.update(child.folder, RunPaths(child.folder))
                    if code is not None:
                        running.remove(child)
                        free.append(child.variables)
                        state, reason = settle(child)
                        outcome.add(child.folder, exit_codes.of_run(state, code))
                        view.ended(child.folder, state, reason)
        finally:
            end([child.process for child in running])
    outcome.stopped_by = stop.first
    return outcome
