"""A process that trains one run: `python -m jobs.local.worker FOLDER`, alone or as one of several ranks.

FOLDER holds the run.json that the launcher wrote. Messages go to stderr, which is the run's log.txt.
"""

import logging
import os
import signal
import sys
from pathlib import Path

from jobs import exit_codes
from jobs.checks import read_run
from jobs.local.parent_death import signal_when_parent_ends
from jobs.local.process_log import log_to_stderr
from suite.errors import Diverged, Preempted, UserError
from suite.launch import launch_variables


def main() -> int:
    """Train the run. Returns the exit code."""
    # Without its launcher a run writes a checkpoint and ends. A leader of ranks lets them do that while it
    # lives; when it is gone it was killed, and no process waits for them.
    signal_when_parent_ends(signal.SIGKILL if launch_variables(os.environ) else signal.SIGTERM)
    log_to_stderr()
    folder = Path(sys.argv[1])
    try:
        run = read_run(folder)
        from suite.train import train_run

        train_run(run, folder)
    except (UserError, Diverged, Preempted) as end:
        logging.error("%s: %s", type(end).__name__, end)
        return exit_codes.of(end)
    return exit_codes.DONE


if __name__ == "__main__":
    sys.exit(main())
