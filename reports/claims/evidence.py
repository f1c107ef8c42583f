"""The runs that a claim rests on, and what is missing of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reports.collect import collect
from reports.frames import Frames, build_frames
from reports.numbers import listed, plural
from suite.errors import UserError


@dataclass(frozen=True)
class Evidence:
    """A claim's own runs alone, so that the common layers do not depend on other claims.

    `frames` is None when not one run can be read. `trouble`: a sentence on the runs that did not complete.
    """

    letter: str
    frames: Frames | None
    num_planned: int
    trouble: str = ""

    @property
    def num_completed(self) -> int:
        return 0 if self.frames is None else len(self.frames.completed)

    @property
    def data(self) -> str:
        """The data sets of the runs."""
        return "" if self.frames is None else ", ".join(self.frames.runs.data.unique())


def gather(letter: str, folders: Sequence[Path]) -> Evidence:
    """Read the planned runs of a claim. A folder that is not there, or holds no run, has not begun."""
    begun = [folder for folder in folders if (folder / "run.json").exists()]
    if not begun:
        return Evidence(letter, None, len(folders), "no run has begun")
    try:
        frames = build_frames(collect(begun))
    except UserError as error:
        return Evidence(letter, None, len(folders), str(error))
    return Evidence(letter, frames, len(folders), _trouble(frames, len(folders)))


def _trouble(frames: Frames, num_planned: int) -> str:
    missing = num_planned - len(frames.completed)
    if not missing:
        return ""
    left = frames.runs[frames.runs.state != "completed"]
    counts = [f"{count} {str(state).replace('_', ' ')}" for state, count in left.state.value_counts().items()]
    if unread := len(frames.collection.skipped):
        counts.append(f"{unread} unreadable")
    if absent := num_planned - len(frames.runs) - unread:
        counts.append(f"{absent} not begun")
    reasons = [reason for reason in dict.fromkeys(left.reason) if reason]
    texts = f" ({reasons[0]})" if reasons else ""
    return f"of {plural(num_planned, 'run')} {missing} did not complete: {listed(counts)}{texts}"
