"""The scheduler: one of Tune's stopping rules, asked about every new epoch, that remembers what is on record.

Tune restores its schedulers empty. This one is built from the records of the study's runs instead, so that
a driver that was killed goes on judging by all that was ever measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from jobs.tune.engine import DriverOnly
from jobs.tune.results import EpochResult, read_results
from jobs.tune.spec import Asha, MedianStopping, Objective
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import StopRequest, ask_to_stop, read_status


@dataclass(frozen=True)
class _Judged:
    """A run as the rule knows it, in this driver and in every later one."""

    trial_id: str


class _NobodyWaits:
    """What the median rule would ask Tune: it pauses runs for others that wait, and ours are not paused."""

    def get_live_trials(self) -> list[Any]:
        return []


class Judge(DriverOnly, FIFOScheduler):  # type: ignore[misc]
    """Passes each epoch's value of the first objective to the rule once, and tells runs that are to stop."""

    def __init__(
        self, spec: Asha | MedianStopping, objective: Objective, max_epochs: int, output_dir: Path
    ) -> None:
        super().__init__()
        self.spec, self.objective, self.max_epochs, self.output_dir = spec, objective, max_epochs, output_dir
        common = {"metric": objective.metric, "mode": objective.mode, "time_attr": "epoch"}
        if isinstance(spec, Asha):
            self._rule: TrialScheduler = ASHAScheduler(
                **common,
                max_t=max(max_epochs, spec.grace_epochs),
                grace_period=spec.grace_epochs,
                reduction_factor=spec.reduction_factor,
            )
        else:
            self._rule = MedianStoppingRule(
                **common, grace_period=spec.grace_epochs, min_samples_required=spec.min_runs
            )
        self._known: dict[str, _Judged] = {}
        self._fed: set[tuple[str, int]] = set()

    def remember(self, runs: Sequence[Run]) -> None:
        """Load what was measured before. The newest epoch of a run that goes on is left to be judged."""
        metrics = (self.objective.metric,)
        for run in runs:
            folder = self.output_dir / run.folder_name
            if not folder.exists():
                continue
            results = read_results(folder, metrics)
            goes_on = read_status(RunPaths(folder)).state not in ("completed", "stopped", "diverged")
            for result in results[:-1] if goes_on else results:
                self._feed(run.run_id, result)

    def set_search_properties(self, metric: str | None, mode: str | None, **_: Any) -> bool:
        """Nothing: the objective is known."""
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Judge an epoch that was not judged before."""
        run_id, epoch = trial.config["run_id"], int(result["epoch"])
        value = result.get(self.objective.metric)
        if value is None or (run_id, epoch) in self._fed:
            return str(TrialScheduler.CONTINUE)
        if self._feed(run_id, EpochResult(epoch, {self.objective.metric: float(value)})):
            self._stop(self.output_dir / trial.config["folder"], epoch, float(value))
            return str(TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """The last epoch comes with the end, and counts in judging others."""
        value = result.get(self.objective.metric)
        if value is not None and result.get("state") == "completed":
            values = {self.objective.metric: float(value)}
            self._feed(trial.config["run_id"], EpochResult(int(result["epoch"]), values))

    def _feed(self, run_id: str, result: EpochResult) -> bool:
        """Whether the rule would have the run stop at this epoch."""
        value = result.values.get(self.objective.metric)
        if value is None or (run_id, result.epoch) in self._fed:
            return False
        self._fed.add((run_id, result.epoch))
        if not math.isfinite(value):  # which no rule can set beside others, and no run recovers from
            return result.epoch >= self.spec.grace_epochs
        if run_id not in self._known:
            self._known[run_id] = _Judged(run_id)
            self._rule.on_trial_add(_NobodyWaits(), self._known[run_id])
        seen = {"epoch": result.epoch, self.objective.metric: value}
        decision = self._rule.on_trial_result(_NobodyWaits(), self._known[run_id], seen)
        return bool(decision == TrialScheduler.STOP and result.epoch < self.max_epochs)

    def _stop(self, folder: Path, epoch: int, value: float) -> None:
        by = self.spec.kind
        says = f"{by} after epoch {epoch} of {self.max_epochs}: {self.objective.metric} {value:.4g}"
        ask_to_stop(RunPaths(folder), StopRequest("stopped", says, by, epoch))
