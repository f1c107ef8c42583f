"""What a training process says: to stderr, and into the log.txt of the run at hand."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s %(message)s"


def log_to_stderr() -> None:
    """Let every logger speak on stderr from here on."""
    logging.basicConfig(level=logging.INFO, format=FORMAT, stream=sys.stderr)


@contextmanager
def also_logged_to(path: Path) -> Iterator[None]:
    """Append what is logged inside to a file too, which is opened with the first line and not before."""
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter(FORMAT))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
