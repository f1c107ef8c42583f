"""The state of one run, and of all runs of an output folder, as `shiftbench status` shows them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.cluster.ledger import Submission
from suite.errors import UserError
from suite.files import read_json
from suite.record import RankError, State


@dataclass(frozen=True)
class RunStatus:
    """One run: what its record says, joined with what its scheduler says.

    `submission` and `job` are those of its newest submission, if there is one. `content` is status.json.
    """

    folder: Path
    state: State
    reason: str
    job: str | None = None
    submission: Submission | None = None
    node: str = ""
    content: dict[str, Any] = field(default_factory=dict)
    errors: list[RankError] = field(default_factory=list)

    @property
    def epochs(self) -> int | None:
        """The number of epochs in the recipe. Reads run.json on every access."""
        recipe = (read_json(self.folder / "run.json") or {}).get("recipe") or {}
        epochs: int | None = recipe.get("epochs")
        return epochs

    @property
    def run_id(self) -> str:
        return self.folder.name.rpartition("-")[2]

    @property
    def label(self) -> str:
        return self.folder.name.rpartition("-")[0] or self.folder.name

    @property
    def is_unfinished(self) -> bool:
        """Whether it is queued or running."""
        return self.state in ("queued", "running")

    @property
    def cluster(self) -> str:
        """The name of the cluster of its newest submission; empty without one."""
        return str(self.submission.cluster.get("name", "")) if self.submission else ""

    @property
    def restarts(self) -> int:
        return max(0, int(self.content.get("attempts", 0)) - 1)

    @property
    def eta_s(self) -> float | None:
        """Seconds to the end at this attempt's pace, evaluations included; None before it is known."""
        content = self.content
        names = ("started_at", "updated_at", "step", "total_steps", "resumed_from_step")
        if self.state != "running" or any(content.get(name) is None for name in names):
            return None
        done = content["step"] - content["resumed_from_step"]
        spent_s = content["updated_at"] - content["started_at"]
        if done <= 0:
            return None
        return float((content["total_steps"] - content["step"]) * spent_s / done)


@dataclass(frozen=True)
class RunsOverview:
    """The runs of an output folder, and a note for each question that a scheduler did not answer."""

    runs: list[RunStatus]
    notes: list[str]

    def select(self, wanted: Sequence[str]) -> list[RunStatus]:
        """Return the runs named by run_id (or its beginning), folder name, path or job; all if none is named.

        Raises UserError for a name that matches no run.
        """
        if not wanted:
            return self.runs
        chosen: dict[Path, RunStatus] = {}
        for text in wanted:
            by_job = [run for run in self.runs if run.job and text in (run.job, run.job.partition("_")[0])]
            found = by_job or [run for run in self.runs if _matches(run, text)]
            if not found:
                raise UserError(f"no run {text!r} here; `shiftbench status` lists their ids")
            chosen |= {run.folder: run for run in found}
        return list(chosen.values())


def _matches(run: RunStatus, text: str) -> bool:
    if re.fullmatch(r"[0-9a-f]{4,12}", text) and run.run_id.startswith(text):
        return True
    return text in (run.folder.name, str(run.folder)) or (
        Path(text).exists() and Path(text).resolve() == run.folder.resolve()
    )
