"""A process that trains one run: `python -m jobs.local.worker FOLDER`, alone or as one of several ranks.

FOLDER holds the run.json that the launcher wrote. Messages go to stderr, which is the run's log.txt.
"""

import logging
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from jobs import exit_codes
from jobs.checks import read_run
from jobs.local.process_end import exit_with
from jobs.local.process_log import log_to_stderr
from jobs.sources import check_own_sources
from suite.errors import Diverged, Preempted, UserError
from suite.experiment import Run
from suite.large_imports import importing_large_packages
from suite.launch import launch_variables
from suite.record import RecordWriter
from suite.signals import signal_when_parent_ends


def main() -> int:
    """Train the run. Returns the exit code."""
    # Without its launcher a run writes a checkpoint and ends. The one process that all ranks have as their
    # parent lets them do that; when it is gone it was killed, and no process waits for them.
    signal_when_parent_ends(signal.SIGKILL if launch_variables(os.environ) else signal.SIGTERM)
    log_to_stderr()
    folder = Path(sys.argv[1])
    try:
        run = read_run(folder)
        _check_sources(run, folder)
        with importing_large_packages():
            from suite.train import train_run

        train_run(run, folder)
    except (UserError, Diverged, Preempted) as end:
        logging.error("%s: %s", type(end).__name__, end)
        return exit_codes.of(end)
    return exit_codes.DONE


def _check_sources(run: Run, folder: Path) -> None:
    """Write into the record, and raise, that these are not the sources that the run was submitted with."""
    try:
        check_own_sources()
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            with RecordWriter(run, folder) as record:
                record.status("failed", reason=str(error))
        raise


def torchrun() -> NoReturn:
    """Become torchrun, which forwards SIGTERM to its ranks and waits for them; it ends with its launcher."""
    signal_when_parent_ends(signal.SIGTERM)
    from torch.distributed.run import main as run_torchrun

    exit_with(lambda: run_torchrun(sys.argv[1:]))


if __name__ == "__main__":
    exit_with(main)
