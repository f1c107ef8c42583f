"""A run's state and what became of it, from its status file, lock and ranks' errors. No pydantic here."""

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
"""States from which a run goes on by itself while a launcher or a scheduler has it."""
SETTLED: tuple[State, ...] = ("completed", "diverged", "stopped")
"""States that a run does not leave unless somebody asks for it; one that failed may be tried again."""

# Training says where it is every few seconds. A lock is not always seen from another machine.
SILENCE_S = 120.0


@dataclass(frozen=True)
class Status:
    """What status.json says, put right by what else there is to see."""

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
    """A run that says `running` while its process is gone is failed, with a rank's error as the reason."""
    content = read_json(paths.status)
    is_missing = not content
    if is_missing:
        content = {"state": "failed", "reason": "it never started: status.json is missing"}
    died_silently = content.get("state") == "running" and not is_alive(paths, content)
    if died_silently and (newer := read_json(paths.status)) not in (None, content):
        content, died_silently = newer, False  # it ended, in good order, between the two looks
    if died_silently:
        content |= {
            "state": "failed",
            "reason": "the process ended without a word (killed, or its machine failed)",
        }
    errors: list[RankError] = []
    if content.get("state") == "failed":
        errors = read_errors(paths)
        cause = next((error for error in errors if not error.is_symptom), errors[0] if errors else None)
        # Of its own end the first rank has written the reason itself.
        if cause is not None and (died_silently or cause.rank != 0 or cause.is_symptom):
            content["reason"] = str(cause)
    return Status(content, died_silently, is_missing, errors)


def is_alive(paths: RunPaths, content: dict[str, Any]) -> bool:
    """Whether a process trains this run: it holds the lock here, or spoke lately elsewhere."""
    locked = is_locked(paths.lock)
    if locked:
        return True
    is_elsewhere = locked is None or content.get("host") not in (None, socket.gethostname())
    return is_elsewhere and time.time() - content.get("updated_at", 0.0) < SILENCE_S
