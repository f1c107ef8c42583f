"""What a rank died of, in a file of its own: only the first rank writes the record, and it may die first."""

import json
import logging
import os
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from suite.errors import Diverged, Preempted, UserError
from suite.files import read_json, write_atomically
from suite.paths import RunPaths

log = logging.getLogger("shiftbench")

# What gloo and NCCL say when a rank at the other end is gone, and not at fault themselves.
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")


@dataclass(frozen=True)
class RankError:
    """A rank's end: where, when (seconds since 1970), and why."""

    rank: int
    host: str
    at: float
    sentence: str
    traceback: str

    @property
    def is_symptom(self) -> bool:
        """Whether this rank only noticed that another one is gone."""
        return any(sign in self.traceback for sign in _LOST)

    def __str__(self) -> str:
        if self.is_symptom:
            return (
                f"a rank was lost (killed, or its node failed), as rank {self.rank} on {self.host} "
                f"noticed: {self.sentence}"
            )
        return f"rank {self.rank} on {self.host}: {self.sentence}"


def node_name() -> str:
    """The node as the scheduler calls it, else the host's name."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def in_one_line(error: BaseException) -> str:
    """`ValueError: what it says`, or what a UserError says."""
    if isinstance(error, UserError):
        return str(error)
    return f"{type(error).__name__}: {error}".splitlines()[0]


@contextmanager
def errors_noted(paths: RunPaths, rank: int) -> Iterator[None]:
    """An exception that ends this rank is written down at once, and raised on.

    Diverging and stopping are agreed on by all, and no errors. At once, because the other ranks notice soon,
    and the earliest note is the cause.
    """
    try:
        yield
    except (Diverged, Preempted):
        raise
    except Exception as error:
        if not getattr(error, "is_noted", False):
            error.is_noted = True  # type: ignore[attr-defined]
            _note(paths, rank, error)
        raise


def _note(paths: RunPaths, rank: int, error: Exception) -> None:
    text = "".join(traceback.format_exception(error))
    noted = RankError(rank, node_name(), time.time(), in_one_line(error), text)
    try:
        paths.errors.mkdir(parents=True, exist_ok=True)
        write_atomically(paths.error(rank), json.dumps(asdict(noted), indent=1) + "\n")
    except OSError as failure:  # a full disk: the log has it all the same
        log.error("%s: could not be written: %s", paths.error(rank), failure)


def read_errors(paths: RunPaths) -> list[RankError]:
    """The ranks' ends in the newest attempt, the earliest first."""
    found = [read_json(path) for path in paths.errors.glob("rank-*.json")]
    errors = [RankError(**content) for content in found if isinstance(content, dict)]
    return sorted(errors, key=lambda error: error.at)


def clear_errors(paths: RunPaths) -> None:
    """A new start has none yet."""
    for path in paths.errors.glob("rank-*.json"):
        path.unlink(missing_ok=True)
