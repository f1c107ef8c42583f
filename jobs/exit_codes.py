"""What the exit codes of `shiftbench` and of a training process mean, and which end gives which code."""

import signal
from collections.abc import Collection
from typing import TYPE_CHECKING

from suite.errors import Diverged, Preempted, UserError

if TYPE_CHECKING:  # a job's task must not import more before it handles signals
    from suite.record import State

DONE = 0
FAILURE = 1
BAD_USAGE = 2
SOME_RUNS_FAILED = 3
PREEMPTED = 75
INTERRUPTED = 130


def of(error: BaseException) -> int:
    """Return the code of a process, or of a run, that ends with this error."""
    if isinstance(error, UserError):
        return BAD_USAGE
    if isinstance(error, Preempted):
        return PREEMPTED
    return SOME_RUNS_FAILED if isinstance(error, Diverged) else FAILURE


def of_run(state: "State", returncode: int) -> int:
    """Return the code of a run that ended in this state, its process with this code or minus a signal."""
    by_state: dict[State, int] = {
        "completed": DONE,
        "preempted": PREEMPTED,
        "diverged": SOME_RUNS_FAILED,
    }
    return by_state.get(state, returncode if returncode > 0 else FAILURE)


def of_stop(number: signal.Signals) -> int:
    """Return the code of a command that a signal has stopped."""
    return INTERRUPTED if number is signal.SIGINT else PREEMPTED


def of_study(has_all: bool, stopped_by: signal.Signals | None, is_spent: bool) -> int:
    """Return the code of a study that has all its results or not, and what ended it before."""
    if stopped_by is not None:
        return of_stop(stopped_by)
    if is_spent:
        return PREEMPTED
    return DONE if has_all else SOME_RUNS_FAILED


def of_runs(failed: Collection[int], stopped_by: signal.Signals | None = None) -> int:
    """Return the code of a command from the codes of those of its runs that did not complete."""
    if stopped_by is not None:
        return of_stop(stopped_by)
    for shared in (PREEMPTED, BAD_USAGE):
        if set(failed) == {shared}:
            return shared
    return SOME_RUNS_FAILED if failed else DONE
