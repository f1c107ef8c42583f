"""A process that trains one run: `python -m jobs.worker FOLDER`, alone or as one of torchrun's ranks.

FOLDER holds the run.json that the launcher wrote. What the process says goes to stderr, which the
launcher keeps in the run's log.txt.
"""

import logging
import sys
from pathlib import Path

from jobs import exit_codes
from suite.errors import Diverged, Preempted, UserError
from suite.record import Record


def main() -> int:
    """Train, and say with the exit code how it ended."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    folder = Path(sys.argv[1])
    try:
        from suite.train import train_run

        train_run(Record.read(folder).run, folder)
    except UserError as error:
        logging.error("%s", error)
        return exit_codes.BAD_USAGE
    except Diverged as diverged:
        logging.error("diverged: %s", diverged)
        return exit_codes.SOME_RUNS_FAILED
    except Preempted as preempted:
        logging.warning("%s", preempted)
        return exit_codes.PREEMPTED
    return exit_codes.DONE


if __name__ == "__main__":
    sys.exit(main())
