"""A run's state and its reason, from its status file, lock and ranks' errors. No pydantic here."""

import socket
import time
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from suite.files import is_locked, read_json
from suite.paths import RunPaths
from suite.record.rank_errors import RankError, read_errors

State = Literal["queued", "running", "completed", "failed", "diverged", "preempted", "stopped", "cancelled"]
STATES: tuple[State, ...] = get_args(State)
UNFINISHED: tuple[State, ...] = ("queued", "running", "preempted")
"""States from which a run continues without a user's action while a launcher or a scheduler has it."""
SETTLED: tuple[State, ...] = ("completed", "diverged", "stopped")
"""States that a run leaves only on a user's request. One that failed may be retried."""

# Training updates its status every few seconds. A lock is not always visible from another machine.
SILENCE_S = 120.0


@dataclass(frozen=True)
class Status:
    """The content of status.json, corrected by the lock and the ranks' errors."""

    content: dict[str, Any]
    died_silently: bool = False
    is_missing: bool = False
    errors: list[RankError] = field(default_factory=list)

    @property
    def state(self) -> State:
        state: State = self.content["state"]
        return state

    @property
    def reason(self) -> str | None:
        reason: str | None = self.content.get("reason")
        return reason


def read_status(paths: RunPaths) -> Status:
    """Read the status. A run that says `running` but has no process is failed, by a rank's error."""
    content = read_json(paths.status)
    is_missing = not content
    if is_missing:
        content = {"state": "failed", "reason": "it never started: status.json is missing"}
    died_silently = content.get("state") == "running" and not is_alive(paths, content)
    if died_silently and (newer := read_json(paths.status)) not in (None, content):
        content, died_silently = newer, False  # it ended normally between the two reads
    if died_silently:
        reason = "the process ended without writing a status (it was killed, or its machine failed)"
        content |= {"state": "failed", "reason": reason}
    errors: list[RankError] = []
    if content.get("state") == "failed":
        errors = read_errors(paths)
        cause = next((error for error in errors if not error.is_symptom), errors[0] if errors else None)
        # The first rank has written the reason of its own end itself.
        if cause is not None and (died_silently or cause.rank != 0 or cause.is_symptom):
            content["reason"] = str(cause)
    return Status(content, died_silently, is_missing, errors)


def is_alive(paths: RunPaths, content: dict[str, Any]) -> bool:
    """Return whether a process trains this run: it holds the lock, or has written its status lately."""
    locked = is_locked(paths.lock)
    if locked:
        return True
    is_elsewhere = locked is None or content.get("host") not in (None, socket.gethostname())
    return is_elsewhere and time.time() - content.get("updated_at", 0.0) < SILENCE_S
