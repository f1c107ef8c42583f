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
from jobs.tune.epoch_results import EpochResult, read_results
from jobs.tune.study_folder import StudyFolder
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import StopRequest, read_status, request_stop
from suite.studies.spec import Asha, MedianStopping, Objective


@dataclass(frozen=True)
class _Judged:
    """A run as the rule knows it, in this driver and in every later one."""

    trial_id: str


class _NobodyWaits:
    """What the median rule would ask Tune: it pauses runs for others that wait, and ours are not paused."""

    def get_live_trials(self) -> list[Any]:
        return []


class StoppingScheduler(DriverOnly, FIFOScheduler):  # type: ignore[misc]
    """Passes each epoch's value of the first objective to the rule once, and tells runs that are to stop."""

    def __init__(
        self,
        spec: Asha | MedianStopping,
        objective: Objective,
        max_epochs: int,
        output_dir: Path,
        study_folder: StudyFolder,
    ) -> None:
        super().__init__()
        self.spec, self.objective, self.output_dir, self.study_folder = (
            spec,
            objective,
            output_dir,
            study_folder,
        )
        common = {"metric": objective.metric, "mode": objective.mode, "time_attr": "epoch"}
        if isinstance(spec, Asha):
            self._rule: TrialScheduler = ASHAScheduler(
                **common,
                # Beyond the last: a run ends by itself, and is not stopped for that.
                max_t=max(max_epochs, spec.grace_epochs) + 1,
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
        """Load what was measured before.

        Of a run that goes on, the newest epoch is left to be judged, unless a driver before has done that.
        """
        judged = self.study_folder.judged_epochs()
        for run in runs:
            folder = self.output_dir / run.folder_name
            if not folder.exists():
                continue
            goes_on = read_status(RunPaths(folder)).state not in ("completed", "stopped", "diverged")
            results = read_results(folder, [self.objective.metric])
            for result in results:
                is_open = goes_on and result is results[-1] and (run.run_id, result.epoch) not in judged
                if not is_open:
                    self._remember(run.run_id, result)

    def set_search_properties(self, metric: str | None, mode: str | None, **_: Any) -> bool:
        """Nothing: the objective is known."""
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """StoppingScheduler an epoch that was not judged before."""
        run_id, epoch = trial.config["run_id"], int(result["epoch"])
        value = result.get(self.objective.metric)
        if value is None or (run_id, epoch) in self._fed:
            return str(TrialScheduler.CONTINUE)
        if not result.get("is_ours", True):  # another process trains it, which is not ours to stop
            self._remember(run_id, EpochResult(epoch, {self.objective.metric: float(value)}))
            return str(TrialScheduler.CONTINUE)
        is_to_stop = self._judge(run_id, epoch, float(value))
        if is_to_stop:
            by = self.spec.kind
            says = f"{by} after epoch {epoch}: {self.objective.metric} {float(value):.4g}"
            request = StopRequest("stopped", says, by, epoch)
            request_stop(RunPaths(self.output_dir / trial.config["folder"]), request)
        self.study_folder.note_judged(run_id, epoch)
        return str(TrialScheduler.STOP if is_to_stop else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """The last epoch comes with the end, and counts in judging others."""
        value = result.get(self.objective.metric)
        if value is not None and result.get("state") == "completed":
            values = {self.objective.metric: float(value)}
            self._remember(trial.config["run_id"], EpochResult(int(result["epoch"]), values))

    def _judge(self, run_id: str, epoch: int, value: float) -> bool:
        """Whether the rule would have the run stop at this epoch."""
        self._fed.add((run_id, epoch))
        if not math.isfinite(value):  # which no rule can set beside others, and no run recovers from
            return epoch >= self.spec.grace_epochs
        seen = {"epoch": epoch, self.objective.metric: value}
        decision = self._rule.on_trial_result(_NobodyWaits(), self._trial(run_id), seen)
        return bool(decision == TrialScheduler.STOP)

    def _remember(self, run_id: str, result: EpochResult) -> None:
        """Have the rule know an epoch without a decision: what it had stopped, it would not judge again."""
        value = result.values.get(self.objective.metric)
        if value is None or not math.isfinite(value) or (run_id, result.epoch) in self._fed:
            return
        self._fed.add((run_id, result.epoch))
        seen = {"epoch": result.epoch, self.objective.metric: value}
        self._rule.on_trial_complete(_NobodyWaits(), self._trial(run_id), seen)

    def _trial(self, run_id: str) -> _Judged:
        """The run, announced to the rule: ASHA forgets it when it is told of an end."""
        trial = self._known.setdefault(run_id, _Judged(run_id))
        self._rule.on_trial_add(_NobodyWaits(), trial)
        return trial
