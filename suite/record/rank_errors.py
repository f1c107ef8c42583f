"""The error that ended a rank, in a file for each rank: only the first one writes the rest of the record."""

import json
import logging
import os
import re
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from suite.errors import Diverged, Preempted, UserError
from suite.files import parse_json, read_whole, write_atomically
from suite.paths import RunPaths
from suite.record.hang import Hang
from suite.record.shapes import COUNT, NUMBER, TEXT, Shape, fault_in, known

log = logging.getLogger("shiftbench")

SHAPES: dict[str, Shape] = {
    "rank": COUNT.required(),
    "host": TEXT.required(),
    "at": NUMBER.required(),
    "sentence": TEXT.required(),
    "traceback": TEXT.required(),
}
# Messages of gloo and NCCL on a rank whose peer has ended.
_LOST = (
    *("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited"),
    *("ncclRemoteError", "NCCL communicator was aborted"),
)
# Those of a rank that has waited for its peers in vain.
_WAITED = (
    # gloo's
    "timed out waiting",
    "timed out in monitoredbarrier",
    "application timeout caused pair closure",
    "connect timeout",
    "so_error: connection timed out",
    # those of the store at which ranks meet
    "timed out after",
    "wait timeout",
    "socket timeout",
    "timeout waiting for key",
    "barrier timeout after",
    # NCCL's
    "collective operation timeout",
    "timed out in blocking wait",
    "nccl timeout",
    "nccl operation timed out",
)
# NCCL's watchdog writes this and aborts the process, in which Python raises nothing.
_WATCHDOG = re.compile(r"\[Rank (\d+)\] (Watchdog caught collective operation timeout: .*)")
LOG_BYTES = 2**16  # the end of a log, in which each rank's watchdog leaves some stacks


@dataclass(frozen=True)
class RankError:
    """The error that ended a rank, with its host and time (`at`, seconds since 1970)."""

    rank: int
    host: str
    at: float
    sentence: str
    traceback: str

    @property
    def is_symptom(self) -> bool:
        """Whether this rank only noticed that another one had ended, or did not come."""
        is_own = "DataLoader worker" in self.sentence  # a process of this rank, to which a connection broke
        return self.has_waited or (not is_own and any(sign in self.traceback for sign in _LOST))

    @property
    def has_waited(self) -> bool:
        """Whether this rank waited for another one longer than system.collective_timeout_s."""
        return has_waited(self.traceback)

    def __str__(self) -> str:
        return self.told()

    def told(self, hang: Hang | None = None) -> str:
        """Return in a sentence why the run failed; `hang`: what is known of ranks that waited."""
        rank = f"rank {self.rank} on {self.host}"
        if self.has_waited:
            return _waited_in_vain(rank, self.sentence, hang)
        if self.is_symptom:
            return f"a rank was lost (killed, or its node failed), as {rank} noticed: {self.sentence}"
        return f"{rank}: {self.sentence}"


def has_waited(traceback: str) -> bool:
    """Return whether an error is that of a rank which has waited for another one in vain."""
    return any(sign in traceback.lower() for sign in _WAITED)


def _waited_in_vain(rank: str, sentence: str, hang: Hang | None) -> str:
    return f"{(hang or Hang()).sentence()}, as {rank} noticed: {sentence}"


def why_aborted(log: Path, hang: Hang | None) -> str | None:
    """Return why NCCL's watchdog ended the process of a log, if it did so. `hang`: what is known of that."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_BYTES))
        for rank, sentence in reversed(_WATCHDOG.findall(file.read().decode(errors="replace"))):
            return _waited_in_vain(f"rank {rank}", sentence, hang)
    return None


def node_name() -> str:
    """Return the scheduler's name of this node, or the host name."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def in_one_line(error: BaseException) -> str:
    """Return `ValueError: message`, or the message alone of a UserError."""
    if isinstance(error, UserError):
        return str(error)
    return f"{type(error).__name__}: {error}".splitlines()[0]


@contextmanager
def errors_noted(paths: RunPaths, rank: int) -> Iterator[None]:
    """Write an exception that ends this rank to its file at once, and raise it again.

    Diverged and Preempted are not errors: all ranks agree on them. At once, because the other ranks fail
    soon after, and the earliest error is taken for the cause.
    """
    try:
        yield
    except (Diverged, Preempted):
        raise
    except Exception as error:
        if not getattr(error, "is_noted", False):
            error.is_noted = True  # type: ignore[attr-defined]
            note_error(paths, rank, error)
        raise


def note_error(paths: RunPaths, rank: int, error: Exception) -> None:
    """Write an error that ends this rank to its file, or into the log if that cannot be written."""
    text = "".join(traceback.format_exception(error))
    noted = RankError(rank, node_name(), time.time(), in_one_line(error), text)
    try:
        paths.errors.mkdir(parents=True, exist_ok=True)
        write_atomically(paths.error(rank), json.dumps(asdict(noted), indent=1) + "\n")
    except OSError as failure:  # a full disk: the log has the error too
        log.error("%s: could not be written: %s", paths.error(rank), failure)


def read_errors(paths: RunPaths) -> tuple[list[RankError], list[str]]:
    """Return the ranks' errors in the newest attempt, earliest first, and a sentence for each bad file."""
    errors: list[RankError] = []
    notes: list[str] = []
    try:
        files = sorted(paths.errors.glob("rank-*.json"))
    except OSError as error:
        return [], [f"{paths.errors}: cannot be read: {error.strerror}"]
    for path in files:
        try:
            data = read_whole(path)
        except OSError as error:
            notes.append(f"{path}: cannot be read: {error.strerror}")
            continue
        if data is None:
            continue  # removed between listing and reading
        content = parse_json(data)
        if fault := fault_in(content, SHAPES):
            notes.append(f"{path}: not as shiftbench writes it: {fault}")
        else:
            errors.append(RankError(**known(content, SHAPES)))
    return sorted(errors, key=lambda error: error.at), notes


def clear_errors(paths: RunPaths) -> None:
    """Delete the errors of a former attempt, and what its ranks left behind while they waited."""
    for path in (*paths.errors.glob("rank-*.json"), *paths.flight.glob("*")):
        path.unlink(missing_ok=True)
