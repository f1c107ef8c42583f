"""The end of a study before its last trial: by a signal, or since its budget is spent."""

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
from jobs.tune.spec import BudgetSpec
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import UNFINISHED, StopRequest, ask_to_stop, read_status
from suite.record.costs import costs_of
from suite.record.files import read_json
from suite.signals import stop_signals_to

LOOK_EVERY_S = 5.0


class Hurried(BaseException):
    """A second Ctrl-C or SIGTERM: what still runs is ended at once. No Exception, which Ray might keep."""


class Halt(DriverOnly, tune.Stopper):  # type: ignore[misc]
    """Asked at every turn of Tune's loop whether to go on. Runs under way then write a checkpoint."""

    def __init__(self, budget: BudgetSpec, spending: "Spending") -> None:
        self.budget, self.spending = budget, spending
        self.signal: signal.Signals | None = None
        self.spent: str | None = None
        self.under_way: dict[str, Path] = {}
        self.is_over = self.in_haste = False
        self._was_urged = self._has_told = False
        self._begun_at = self._looked_at = time.monotonic()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """The first time that it is so, every run under way is told."""
        if self.spent is None and time.monotonic() - self._looked_at > LOOK_EVERY_S:
            self._looked_at = time.monotonic()
            self.spent = self._what_is_spent()
        why = self.signal.name if self.signal is not None else self.spent
        if why is None:
            return False
        if not self._has_told:
            self._has_told = True
            for folder in self.under_way.values():
                request = StopRequest("preempted", f"the driver of the study: {why}", "study")
                if folder.exists() and read_status(RunPaths(folder)).state in UNFINISHED:
                    ask_to_stop(RunPaths(folder), request)
        return True

    def _what_is_spent(self) -> str | None:
        hours = self.budget.wall_hours
        if hours is not None and time.monotonic() - self._begun_at > hours * 3600:
            return f"the budget of {hours:g} hours is spent"
        hours = self.budget.rank_hours
        if hours is not None and self.spending.rank_s() > hours * 3600:
            return f"the budget of {hours:g} rank-hours is spent"
        return None

    @contextmanager
    def hearing_signals(self) -> Iterator[None]:
        """Inside, a stop signal ends the study in good order; a second Ctrl-C or SIGTERM raises Hurried."""

        def handle(number: int, _: FrameType | None) -> None:
            if self.is_over:
                return
            is_urgent = number in URGENT
            if self.signal is not None and is_urgent and self._was_urged:
                self.in_haste = True
                raise Hurried
            self._was_urged |= is_urgent
            self.signal = self.signal or signal.Signals(number)

        with stop_signals_to(handle):
            yield


class Spending:
    """Rank-seconds that a study's own runs took so far; what another experiment trained cost that one."""

    def __init__(self, study: str, output_dir: Path, runs: Callable[[], Sequence[Run]]) -> None:
        self.study, self.output_dir, self.runs = study, output_dir, runs
        self._settled: dict[str, float] = {}

    def rank_s(self) -> float:
        """Of every attempt of every run, those under way included."""
        return sum(self._of(run) for run in self.runs())

    def _of(self, run: Run) -> float:
        if run.run_id in self._settled:
            return self._settled[run.run_id]
        paths = RunPaths(self.output_dir / run.folder_name)
        if (read_json(paths.run) or {}).get("experiment") != self.study:
            return 0.0
        status = read_status(paths)
        rank_s = costs_of(status.content).rank_s
        if status.state not in UNFINISHED:
            self._settled[run.run_id] = rank_s
        return rank_s
