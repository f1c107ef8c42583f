"""The scheduler of a study: asks one of Ray Tune's stopping rules about each new epoch.

Tune restores its schedulers empty. This one is built from the records of the study's runs instead, so a
driver that replaces a killed one judges by everything that was ever measured.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import Any, NamedTuple

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from jobs.tune.engine import DriverOnly
from jobs.tune.epoch_results import read_results
from jobs.tune.study_folder import StudyFolder
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import SETTLED, StopRequest, read_status, request_stop
from suite.studies.spec import Objective, StoppingSpec

CONTINUE, STOP = str(TrialScheduler.CONTINUE), str(TrialScheduler.STOP)


# Replaces Tune, which the median rule asks for paused trials; our trials are never paused.
NO_PAUSED_TRIALS = SimpleNamespace(get_live_trials=list)


class _RuleTrial(NamedTuple):
    """A run as the rule knows it, in this driver and in every later one."""

    trial_id: str


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
        """Raise AttributeError or ImportError for a rule that does not exist."""
        super().__init__()
        self.spec, self.objective, self.output_dir = spec, objective, output_dir
        self.study_folder = study_folder
        self._rule: TrialScheduler = resolve_name(spec.rule)(
            metric=objective.metric, mode=objective.mode, time_attr="epoch", **spec.rule_arguments(max_epochs)
        )
        self._shown: set[tuple[str, int]] = set()

    def remember(self, runs: Sequence[Run]) -> None:
        """Show the rule what was measured before.

        The newest epoch of a run that continues is left to be judged, unless a former driver has judged it.
        """
        judged = self.study_folder.judged_epochs()
        for run in runs:
            folder = self.output_dir / run.folder_name
            if not folder.exists():
                continue
            continues = read_status(RunPaths(folder)).state not in SETTLED
            results = read_results(folder, [self.objective.metric])
            for epoch, values in results.items():
                is_open = continues and epoch == max(results) and (run.run_id, epoch) not in judged
                if not is_open:
                    self._remember(run.run_id, epoch, values[self.objective.metric])

    def set_search_properties(self, metric: str | None, mode: str | None, **_: Any) -> bool:
        """Does nothing: the objective is known."""
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Judge an epoch that was not judged before."""
        run_id, epoch = trial.config["run_id"], int(result["epoch"])
        value = result.get(self.objective.metric)
        if value is None or (run_id, epoch) in self._shown:
            return CONTINUE
        if not result.get("is_ours", True):  # another process trains it, which a study must not stop
            self._remember(run_id, epoch, float(value))
            return CONTINUE
        is_to_stop = self._judge(run_id, epoch, float(value))
        if is_to_stop:
            reason = f"{self.spec.kind} after epoch {epoch}: {self.objective.metric} {float(value):.4g}"
            paths = RunPaths(self.output_dir / trial.config["folder"])
            request_stop(paths, StopRequest("stopped", reason, self.spec.kind, epoch))
        self.study_folder.add_judged(run_id, epoch)
        return STOP if is_to_stop else CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Show the rule the last epoch, which comes with the end of the run."""
        value = result.get(self.objective.metric)
        if value is not None and result.get("state") == "completed":
            self._remember(trial.config["run_id"], int(result["epoch"]), float(value))

    def _judge(self, run_id: str, epoch: int, value: float) -> bool:
        """Whether the rule stops the run at this epoch."""
        self._shown.add((run_id, epoch))
        if not math.isfinite(value):  # no rule can compare it, and no run recovers from it
            return epoch >= self.spec.grace_epochs
        return bool(self._show(self._rule.on_trial_result, run_id, epoch, value) == STOP)

    def _remember(self, run_id: str, epoch: int, value: float) -> None:
        """Show the rule an epoch without a decision: after a decision to stop it would not judge again."""
        if math.isfinite(value) and (run_id, epoch) not in self._shown:
            self._shown.add((run_id, epoch))
            self._show(self._rule.on_trial_complete, run_id, epoch, value)

    def _show(self, method: Callable[..., Any], run_id: str, epoch: int, value: float) -> Any:
        """Call a method of the rule for a run, announced before since ASHA forgets a run at its end."""
        trial = _RuleTrial(run_id)
        self._rule.on_trial_add(NO_PAUSED_TRIALS, trial)
        return method(NO_PAUSED_TRIALS, trial, {"epoch": epoch, self.objective.metric: value})
