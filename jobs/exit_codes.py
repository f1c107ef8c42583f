"""What the exit codes of `shiftbench` and of a training process mean."""

DONE = 0
FAILURE = 1
BAD_USAGE = 2
SOME_RUNS_FAILED = 3
PREEMPTED = 75
INTERRUPTED = 130
