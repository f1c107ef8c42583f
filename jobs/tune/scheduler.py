"""The scheduler of a study: asks one of Ray Tune's stopping rules about each new epoch.

Tune restores its schedulers empty. This one is built from the records of the study's runs instead, so a
driver that replaces a killed one judges by everything that was ever measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from jobs.tune.engine import DriverOnly
from jobs.tune.epoch_results import EpochResult, read_results
from jobs.tune.study_folder import StudyFolder
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import SETTLED, StopRequest, read_status, request_stop
from suite.studies.spec import Objective
from suite.studies.strategies import StoppingSpec

CONTINUE, STOP = str(TrialScheduler.CONTINUE), str(TrialScheduler.STOP)


@dataclass(frozen=True)
class _RuleTrial:
    """A run as the rule knows it, in this driver and in every later one."""

    trial_id: str


class _NoPausedTrials:
    """Stands in for Tune, which the median rule asks for paused trials that wait: none of ours is paused."""

    def get_live_trials(self) -> list[Any]:
        return []


class StoppingScheduler(DriverOnly, FIFOScheduler):  # type: ignore[misc]
    """Shows the rule each epoch's value of the first objective once, and stops the runs that it ends."""

    def __init__(
        self,
        spec: StoppingSpec,
        objective: Objective,
        max_epochs: int,
        output_dir: Path,
        study_folder: StudyFolder,
    ) -> None:
        """Raises AttributeError or ImportError for a rule that does not exist."""
        super().__init__()
        self.spec, self.objective, self.output_dir = spec, objective, output_dir
        self.study_folder = study_folder
        self._rule: TrialScheduler = resolve_name(spec.rule)(
            metric=objective.metric, mode=objective.mode, time_attr="epoch", **spec.rule_arguments(max_epochs)
        )
        self._trials: dict[str, _RuleTrial] = {}
        self._shown: set[tuple[str, int]] = set()

    def remember(self, runs: Sequence[Run]) -> None:
        """Shows the rule what was measured before.

        The newest epoch of a run that continues is left to be judged, unless a former driver has judged it.
        """
        judged = self.study_folder.judged_epochs()
        for run in runs:
            folder = self.output_dir / run.folder_name
            if not folder.exists():
                continue
            continues = read_status(RunPaths(folder)).state not in SETTLED
            results = read_results(folder, [self.objective.metric])
            for result in results:
                is_open = continues and result is results[-1] and (run.run_id, result.epoch) not in judged
                if not is_open:
                    self._remember(run.run_id, result)

    def set_search_properties(self, metric: str | None, mode: str | None, **_: Any) -> bool:
        """Does nothing: the objective is known."""
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Judges an epoch that was not judged before."""
        run_id, epoch = trial.config["run_id"], int(result["epoch"])
        value = result.get(self.objective.metric)
        if value is None or (run_id, epoch) in self._shown:
            return CONTINUE
        if not result.get("is_ours", True):  # another process trains it, which a study must not stop
            self._remember(run_id, EpochResult(epoch, {self.objective.metric: float(value)}))
            return CONTINUE
        is_to_stop = self._judge(run_id, epoch, float(value))
        if is_to_stop:
            by = self.spec.kind
            reason = f"{by} after epoch {epoch}: {self.objective.metric} {float(value):.4g}"
            request = StopRequest("stopped", reason, by, epoch)
            request_stop(RunPaths(self.output_dir / trial.config["folder"]), request)
        self.study_folder.add_judged(run_id, epoch)
        return STOP if is_to_stop else CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Shows the rule the last epoch, which comes with the end of the run."""
        value = result.get(self.objective.metric)
        if value is not None and result.get("state") == "completed":
            values = {self.objective.metric: float(value)}
            self._remember(trial.config["run_id"], EpochResult(int(result["epoch"]), values))

    def _judge(self, run_id: str, epoch: int, value: float) -> bool:
        """Whether the rule stops the run at this epoch."""
        self._shown.add((run_id, epoch))
        if not math.isfinite(value):  # no rule can compare it, and no run recovers from it
            return epoch >= self.spec.grace_epochs
        result = {"epoch": epoch, self.objective.metric: value}
        return bool(self._rule.on_trial_result(_NoPausedTrials(), self._trial(run_id), result) == STOP)

    def _remember(self, run_id: str, result: EpochResult) -> None:
        """Shows the rule an epoch without a decision: after a decision to stop it would not judge again."""
        value = result.values.get(self.objective.metric)
        if value is None or not math.isfinite(value) or (run_id, result.epoch) in self._shown:
            return
        self._shown.add((run_id, result.epoch))
        shown = {"epoch": result.epoch, self.objective.metric: value}
        self._rule.on_trial_complete(_NoPausedTrials(), self._trial(run_id), shown)

    def _trial(self, run_id: str) -> _RuleTrial:
        """The run, announced to the rule: ASHA forgets a run at its end."""
        trial = self._trials.setdefault(run_id, _RuleTrial(run_id))
        self._rule.on_trial_add(_NoPausedTrials(), trial)
        return trial
