"""A run's state and its reason, from its status file, lock and ranks' errors. No pydantic here."""

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from suite.errors import UserError
from suite.files import is_locked, parse_json, read_whole
from suite.paths import RunPaths
from suite.record.hang import Hang, read_hang
from suite.record.rank_errors import RankError, read_errors
from suite.record.shapes import COUNT, MEASURED, NUMBER, TEXT, Shape, described, fault_in, one_of
from suite.specs.task_table import ACCURACIES

State = Literal["queued", "running", "completed", "failed", "diverged", "preempted", "stopped", "cancelled"]
STATES: tuple[State, ...] = get_args(State)
UNFINISHED: tuple[State, ...] = ("queued", "running", "preempted")
"""States from which a run continues without a user's action while a launcher or a scheduler has it."""
SETTLED: tuple[State, ...] = ("completed", "diverged", "stopped")
"""States that a run leaves only on a user's request. One that failed may be retried."""
PHASES = ("training", "evaluating", "probing")
"""What a running run does; before the first it is starting, and has written no phase."""

_TEXTS = ("reason", "phase", "host", "job", "nodes", "submission", "stopped_by")
_COUNTS = (
    *("attempts", "lost_steps", "step", "total_steps", "resumed_from_step", "epoch", "evaluated_epoch"),
    *("world_size", "pid", "fruitless_starts", "stopped_after_epoch"),
)
_TIMES = ("updated_at", "started_at", "created_at", "rank_s", "queue_wait_s")
_RESULTS = (*ACCURACIES, "images_per_s", "loss")
SHAPES: dict[str, Shape] = {
    "state": one_of(*STATES).required(),
    **dict.fromkeys(_TEXTS, TEXT.or_null()),
    **dict.fromkeys(_COUNTS, COUNT.or_null()),
    **dict.fromkeys(("attempts", "lost_steps"), COUNT),
    **dict.fromkeys(_TIMES, NUMBER.or_null()),
    **dict.fromkeys(("updated_at", "rank_s"), NUMBER),
    **dict.fromkeys(_RESULTS, MEASURED.or_null()),
}
# Training updates its status every few seconds. A lock is not always visible from another machine.
SILENCE_S = 120.0
CLOCKS_AGREE_S = 60.0


@dataclass(frozen=True)
class Status:
    """The content of status.json, corrected by the lock and the ranks' errors; `reason` is corrected, too."""

    content: dict[str, Any]
    paths: RunPaths | None = None  # None where status.json cannot be used
    died_silently: bool = False
    is_missing: bool = False
    errors: list[RankError] = field(default_factory=list)
    damage: str | None = None  # why status.json cannot be used; the state is then `failed`
    notes: list[str] = field(default_factory=list)  # a sentence for each other file that cannot be used
    cause: RankError | None = None  # that of a rank, which tells why the run failed

    @property
    def state(self) -> State:
        state: State = self.content["state"]
        return state

    @cached_property
    def hang(self) -> Hang | None:
        """What the ranks wrote while they waited for one another; read when it is asked for."""
        return None if self.paths is None else read_hang(self.paths)

    @property
    def reason(self) -> str | None:
        """Why the run is in this state. Reads what ranks that waited in vain have written."""
        if self.cause is not None:
            return self.cause.told(self.hang if self.cause.has_waited else None)
        reason: str | None = self.content.get("reason")
        return reason


class DamagedStatus(UserError):
    """status.json is there, but not as shiftbench writes it."""


def read_content(paths: RunPaths) -> dict[str, Any] | None:
    """Return the content of status.json; None where there is none, or no JSON in it. Raises DamagedStatus."""
    try:
        data = read_whole(paths.status)
    except OSError as error:
        raise DamagedStatus(f"{paths.status}: cannot be read: {error.strerror}") from None
    content = None if data is None else parse_json(data)
    if content is None or content == {}:
        return None
    if fault := fault_in(content, SHAPES):
        state = content.get("state") if isinstance(content, dict) else None
        if isinstance(state, str) and state not in STATES:
            fault = f"unknown state {described(state)}; valid: {', '.join(STATES)}"
        raise DamagedStatus(
            f"{paths.status}: not as shiftbench writes it: {fault}; correct it, or remove it to train on "
            "from the newest checkpoint"
        )
    found: dict[str, Any] = content
    return found


def read_status(paths: RunPaths) -> Status:
    """Read the status. A run that says `running` but has no process is failed, by a rank's error.

    One that cannot be used is failed too, with the reason, and `damage` says so.
    """
    try:
        return _read_status(paths)
    except DamagedStatus as error:
        return Status({"state": "failed", "reason": str(error)}, damage=str(error))


def _read_status(paths: RunPaths) -> Status:
    content = read_content(paths)
    is_missing = content is None
    if content is None:
        content = {"state": "failed", "reason": _why_missing(paths)}
    died_silently = content.get("state") == "running" and not is_alive(paths, content)
    if died_silently and (newer := read_content(paths)) not in (None, content):
        assert newer is not None
        content, died_silently = newer, False  # it ended normally between the two reads
    if died_silently:
        reason = "the process ended without writing a status (it was killed, or its machine failed)"
        content |= {"state": "failed", "reason": reason}
    errors: list[RankError] = []
    cause: RankError | None = None
    notes = list(_differing_clocks(paths, content))
    if content.get("state") == "failed":
        errors, others = read_errors(paths)
        notes += others
        first = next((error for error in errors if not error.is_symptom), errors[0] if errors else None)
        # The first rank has written the reason of its own end itself.
        if first is not None and (died_silently or is_missing or first.rank != 0 or first.is_symptom):
            cause = first
    return Status(content, paths, died_silently, is_missing, errors, notes=notes, cause=cause)


def _differing_clocks(paths: RunPaths, content: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence if the clock of the machine that trains is not that of the file system."""
    if content.get("state") == "running":
        with suppress(OSError):
            ahead_s = float(content.get("updated_at", 0.0)) - paths.status.stat().st_mtime
            if abs(ahead_s) > CLOCKS_AGREE_S:
                by = f"{abs(ahead_s) / 60:.0f} min {'ahead of' if ahead_s > 0 else 'behind'}"
                yield (
                    f"{paths.folder.name}: clocks differ: that of {content.get('host', 'its node')} is {by} "
                    "the file system's, so the times in its record are off by as much"
                )


def _why_missing(paths: RunPaths) -> str:
    if not paths.folder.exists():
        return "it never started, or its folder was removed"
    return f"it never started: status.json {'has no content' if paths.status.exists() else 'is missing'}"


def is_alive(paths: RunPaths, content: dict[str, Any]) -> bool:
    """Return whether a process trains this run: it holds the lock, or has written its status lately."""
    locked = is_locked(paths.lock)
    if locked:
        return True
    return (locked is None or is_elsewhere(content)) and silent_for_s(paths, content) < SILENCE_S


def is_elsewhere(content: dict[str, Any]) -> bool:
    """Return whether another machine wrote the status."""
    return content.get("host") not in (None, socket.gethostname())


def silent_for_s(paths: RunPaths, content: dict[str, Any]) -> float:
    """Return the seconds since the status was written; 0 or more.

    The clocks of the two machines may differ, and that of the file system is a third: the smaller age that is
    not in the future counts.
    """
    now = time.time()
    ages_s = [now - float(content.get("updated_at", 0.0))]
    with suppress(OSError):
        ages_s.append(now - paths.status.stat().st_mtime)
    return min((age_s for age_s in ages_s if age_s >= 0), default=0.0)


def time_left_s(content: dict[str, Any]) -> float | None:
    """Return the seconds to the end of a running run at this attempt's pace, evaluations included.

    None before it is known. `content`: that of status.json.
    """
    names = ("started_at", "updated_at", "step", "total_steps", "resumed_from_step")
    values: list[Any] = [content.get(name) for name in names]
    if content.get("state") != "running" or None in values or (done := values[2] - values[4]) <= 0:
        return None
    started_at, updated_at, step, total, _ = values
    if updated_at < started_at:  # the machine's clock was set back
        return None
    return float(max(0, total - step) * (updated_at - started_at) / done)
