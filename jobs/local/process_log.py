"""Logging of a training process: to stderr, and to the log.txt of the run that it trains."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s %(message)s"


def log_to_stderr() -> None:
    """Log to stderr from here on."""
    logging.basicConfig(level=logging.INFO, format=FORMAT, stream=sys.stderr)


@contextmanager
def also_logged_to(path: Path) -> Iterator[None]:
    """Append what is logged inside to a file too. The first line creates it."""
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter(FORMAT))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
