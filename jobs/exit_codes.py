"""What the exit codes of `shiftbench` and of a training process mean."""

from suite.errors import Diverged, Preempted, UserError

DONE = 0
FAILURE = 1
BAD_USAGE = 2
SOME_RUNS_FAILED = 3
PREEMPTED = 75
INTERRUPTED = 130


def of(error: UserError | Diverged | Preempted) -> int:
    """The code of a training process that ends in this way."""
    if isinstance(error, UserError):
        return BAD_USAGE
    return PREEMPTED if isinstance(error, Preempted) else SOME_RUNS_FAILED
