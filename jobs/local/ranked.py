"""Trains an experiment's runs in turn, on the ranks that torchrun or srun started."""

import logging
import signal
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from jobs import exit_codes
from jobs.checks import is_completed
from jobs.local.process_log import also_logged_to, log_to_stderr
from jobs.outcome import LaunchOutcome
from suite.errors import Diverged, Preempted, UserError
from suite.experiment import Run, check_batches
from suite.paths import RunPaths
from suite.record import clear_stop_request
from suite.signals import StopFlag, stop_flag

if TYPE_CHECKING:
    from suite.train.distributed import Ranks

log = logging.getLogger("shiftbench")


# What a rank sees of a run's record; the ranks agree on the largest.
_TO_TRAIN, _COMPLETE, _UNREADABLE = range(3)


def train_in_turn(runs: Sequence[Run], output_dir: Path, world_size: int) -> LaunchOutcome:
    """Join the other ranks once, then train every run that is not completed. Every rank calls this.

    A run that diverges or is refused is followed by the next one. A stop signal ends all of them, and so does
    SystemExit: for an error that only this rank may have met, since the other ranks wait for it. Raises
    UserError before anything starts when the batches do not fit the ranks.
    """
    folders = [output_dir / run.folder_name for run in runs]
    found = [_look_at(folder) for folder in folders]
    check_batches([run for run, state in zip(runs, found, strict=True) if state == _TO_TRAIN], world_size)

    import suite.train

    log_to_stderr()
    outcome = LaunchOutcome()
    with stop_flag() as stop, suite.train.joined(runs[0].system) as ranks:
        for run, folder, seen in zip(runs, folders, found, strict=True):
            state = ranks.agree(seen)  # one file system may show it later than another
            if state == _COMPLETE:
                outcome.skipped.append(folder)
            elif state == _UNREADABLE:
                outcome.add(folder, exit_codes.BAD_USAGE)
            if state != _TO_TRAIN:
                continue
            code = _train(run, folder, ranks, stop)
            outcome.add(folder, code)
            if code == exit_codes.PREEMPTED:
                outcome.stopped_by = signal.SIGTERM  # or another stop signal, here or on another rank
                break
    return outcome


def _look_at(folder: Path) -> int:
    try:
        return _COMPLETE if is_completed(folder) else _TO_TRAIN
    except UserError as error:
        log.error("%s: left alone: %s", folder.name, error)
        return _UNREADABLE


def _train(run: Run, folder: Path, ranks: "Ranks", stop: StopFlag) -> int:
    from suite.train import train_on

    if ranks.is_first:
        clear_stop_request(RunPaths(folder))
    try:
        with also_logged_to(RunPaths(folder).log) if ranks.is_first else nullcontext():
            train_on(run, folder, ranks, stop)
    except (UserError, Diverged, Preempted) as end:
        log.error("%s: %s", run.label, end)
        if isinstance(end.__cause__, OSError):  # a full disk, which only the first rank meets
            raise SystemExit(exit_codes.of(end)) from end
        return exit_codes.of(end)
    except Exception as error:
        log.exception("%s: failed", run.label)
        raise SystemExit(exit_codes.FAILURE) from error
    return exit_codes.DONE
