"""When a study ends before its last trial: after a signal, a spent budget, or a refusal by the cluster."""

import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from ray import tune

from jobs.local.stop import URGENT
from jobs.tune.engine import DriverOnly
from jobs.tune.study_folder import stop_file
from suite.experiment import Run
from suite.files import read_json, write_atomically
from suite.paths import RunPaths
from suite.record import SETTLED, read_status
from suite.record.costs import costs_of
from suite.record.reader import experiment_of
from suite.signals import stop_signals_to
from suite.studies.spec import BudgetSpec

LOOK_EVERY_S = 2.0


class ForcedStop(BaseException):
    """A second Ctrl-C or SIGTERM ends everything at once. Not an Exception: Ray might catch that."""


class StopConditions(DriverOnly, tune.Stopper):  # type: ignore[misc]
    """Tune asks it in every turn of its loop whether to stop. Trials then find `file`, and end their runs."""

    def __init__(
        self, budget: BudgetSpec, study: str, output_dir: Path, runs: Callable[[], Sequence[Run]]
    ) -> None:
        """`runs`: returns the study's runs so far."""
        self.budget, self.study, self.output_dir, self.runs = budget, study, output_dir, runs
        self.file = stop_file(output_dir, study)
        self.signal: signal.Signals | None = None
        self.spent: str | None = None
        self.refused: str | None = None
        self.is_over = self.is_forced = False
        self._was_urged = False
        self._begun_at = time.monotonic()
        self._looked_at = -LOOK_EVERY_S
        self._settled: dict[str, float] = {}
        self.file.unlink(missing_ok=True)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    @property
    def reason(self) -> str | None:
        """Why the study ends now; None if it does not."""
        why = self.spent or self.refused if self.signal is None else self.signal.name
        return None if why is None else f"the driver of the study: {why}"

    def look(self) -> None:
        """Read what was spent, and whether the cluster refused a trial."""
        self._looked_at = time.monotonic()
        self.spent = self.spent or self._what_is_spent()
        self.refused = self.refused or (read_json(self.file) or {}).get("refused")

    def stop_all(self) -> bool:
        """Whether all trials end now. Writes the file that ends them, once."""
        if time.monotonic() - self._looked_at > LOOK_EVERY_S:
            self.look()
        if self.reason is None:
            return False
        if "reason" not in (read_json(self.file) or {}):
            write_atomically(self.file, json.dumps({"reason": self.reason, "refused": self.refused}) + "\n")
        return True

    def _what_is_spent(self) -> str | None:
        hours = self.budget.wall_hours
        if hours is not None and time.monotonic() - self._begun_at > hours * 3600:
            return f"the budget of {hours:g} hours is spent"
        hours = self.budget.rank_hours
        if hours is not None and sum(map(self._rank_s, self.runs())) > hours * 3600:
            return f"the budget of {hours:g} rank-hours is spent"
        return None

    def _rank_s(self, run: Run) -> float:
        """Rank-seconds of a run, over all attempts; 0 for one that another experiment trained."""
        if run.run_id in self._settled:
            return self._settled[run.run_id]
        paths = RunPaths(self.output_dir / run.folder_name)
        if experiment_of(paths) != self.study:
            return 0.0
        status = read_status(paths)
        rank_s = costs_of(status.content).rank_s
        if status.state in SETTLED:
            self._settled[run.run_id] = rank_s
        return rank_s

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Inside, a stop signal ends the study with checkpoints; a second urgent one raises ForcedStop."""

        def handle(number: int, _: FrameType | None) -> None:
            if self.is_over:
                return
            is_urgent = number in URGENT
            if self.signal is not None and is_urgent and self._was_urged:
                self.is_forced = True
                raise ForcedStop
            self._was_urged |= is_urgent
            self.signal = self.signal or signal.Signals(number)

        with stop_signals_to(handle):
            yield
