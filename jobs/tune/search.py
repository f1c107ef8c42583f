"""The searches of a study: which run comes next, of points that are known or that Optuna proposes."""

import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ray.tune.search import Searcher

from jobs.tune.engine import DriverOnly
from jobs.tune.epoch_results import read_results
from jobs.tune.runners import TrialContext
from jobs.tune.study_folder import StudyFolder
from jobs.tune.trial import is_result
from suite.errors import UserError
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import read_status
from suite.studies.space import Point
from suite.studies.study import Study, StudyPoint

if TYPE_CHECKING:
    from optuna import Trial as Proposal

Key = tuple[str, ...]
MAX_REPEATS = 50  # proposals of points that are known already: a small space is soon proposed whole


def trial_config(point: StudyPoint, run: Run) -> dict[str, Any]:
    """What Tune knows of a trial: its point and seed, its run_id, and its folder's name."""
    return {"point": point.values, "seed": run.seed, "run_id": run.run_id, "folder": run.folder_name}


class StudySearcher(DriverOnly, Searcher):  # type: ignore[misc]
    """Gives Tune the trials one by one."""

    left_out = 0
    """How many points of former drivers are not in the study any more."""

    def __init__(self, study: Study) -> None:
        super().__init__(metric=study.metrics[0], mode=str(study.spec.objectives[0].mode))
        self.study = study

    @property
    def is_over(self) -> bool:
        """Whether no further point is proposed."""
        return True

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs of all points so far."""
        return self.study.runs

    def set_search_properties(self, metric: str | None, mode: str | None, config: Any, **_: Any) -> bool:
        return True

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Does nothing."""

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: a later driver begins from the records."""

    restore = save


class EveryRun(StudySearcher):
    """The study's runs, point by point."""

    def __init__(self, study: Study) -> None:
        super().__init__(study)
        self._configs = (trial_config(point, run) for point in study.points for run in point.runs)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        return next(self._configs, Searcher.FINISHED)


class Proposals(StudySearcher):
    """Optuna's points, each with every seed. Optuna learns the mean over the seeds."""

    def __init__(self, context: TrialContext, study_folder: StudyFolder) -> None:
        """Raise UserError where Optuna is not installed."""
        super().__init__(context.study)
        try:
            import optuna
        except ImportError:
            raise UserError("search: optuna is not installed: pip install 'shiftbench[optuna]'") from None
        self._module: Any = optuna
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.context, self.study_folder = context, study_folder
        spec = self.study.spec
        kind = optuna.samplers.NSGAIISampler if len(spec.objectives) > 1 else optuna.samplers.TPESampler
        sampler = kind(seed=spec.sampling_seed)
        directions = ["maximize" if one.mode == "max" else "minimize" for one in spec.objectives]
        self._optuna = self._module.create_study(directions=directions, sampler=sampler)
        self._waiting: deque[tuple[StudyPoint, Run]] = deque()
        self._proposed: dict[Key, Proposal] = {}
        self._points: dict[Key, StudyPoint] = {}
        self._open: dict[Key, set[str]] = {}
        self._given: dict[str, tuple[Key, str]] = {}
        for params, values in study_folder.proposed_points():
            if self._is_possible(params, values):
                self._optuna.enqueue_trial(params)
                self._add(self._optuna.ask())
            else:
                self.left_out += 1

    @property
    def is_over(self) -> bool:
        num_proposed = self.study.spec.search.num_proposed
        assert num_proposed is not None
        return self.study_folder.is_search_over or len(self._points) >= num_proposed

    def _is_possible(self, params: dict[str, Any], values: Point) -> bool:
        """Whether a point of a former driver is one of the study as it is now."""
        try:
            point = self._values(self._module.trial.FixedTrial(params))
            return point == values and bool(self.study.at(point).runs)
        except (UserError, ValueError, IndexError, KeyError):
            return False

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for point in self._points.values() for run in point.runs)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if not self._waiting and (self.is_over or not self._propose()):
            return str(Searcher.FINISHED)
        point, run = self._waiting.popleft()
        self._given[trial_id] = _key(point), run.run_id
        return trial_config(point, run)

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Give Optuna a point's value after the last of its runs."""
        key, run_id = self._given.pop(trial_id, ((), ""))
        missing = self._open.get(key, set())
        if run_id in missing:
            missing.discard(run_id)
            if not missing:
                self._tell(key)

    def _propose(self) -> bool:
        """Ask Optuna for a point that is new. Returns whether one was found."""
        for _ in range(MAX_REPEATS):
            trial = self._optuna.ask()
            values = self._values(trial)
            try:
                is_new = _key(self.study.at(values)) not in self._points
            except UserError:  # impossible, although the corners of the space are not
                is_new = False
            if is_new:
                self.study_folder.add_point(trial.params, values)
                self._add(trial)
                return True
            self._optuna.tell(trial, state=self._module.trial.TrialState.FAIL)
        self.study_folder.end_search()
        return False

    def _add(self, trial: "Proposal") -> None:
        point = self.study.at(self._values(trial))
        key = _key(point)
        self._proposed[key], self._points[key] = trial, point
        is_known = all(is_result(run, self.context) for run in point.runs)
        self._open[key] = set() if is_known else set(key)
        self._waiting.extend((point, run) for run in point.runs)
        if is_known:
            self._tell(key)

    def _values(self, trial: "Proposal") -> Point:
        point: Point = {}
        for key, axis in self.study.spec.space.items():
            if axis.holds(point):
                point[key] = axis.propose(key, point, trial)
        return point

    def _tell(self, key: Key) -> None:
        means = [self._mean(self._points[key].runs, metric) for metric in self.study.metrics]
        if all(map(math.isfinite, means)):
            self._optuna.tell(self._proposed[key], means)
        else:
            self._optuna.tell(self._proposed[key], state=self._module.trial.TrialState.FAIL)

    def _mean(self, runs: tuple[Run, ...], metric: str) -> float:
        """The mean of the newest value over all seeds; NaN if a run has none or did not end well."""
        values = []
        for run in runs:
            folder = self.context.output_dir / run.folder_name
            results = read_results(folder, [metric])
            is_well = read_status(RunPaths(folder)).state in ("completed", "stopped", "running", "preempted")
            values.append(results[max(results)][metric] if results and is_well else math.nan)
        return math.fsum(values) / len(values)


SEARCHERS: dict[str, Callable[[TrialContext, StudyFolder], StudySearcher]] = {
    "all": lambda context, study_folder: EveryRun(context.study),
    "optuna": Proposals,
}
"""How each of `suite.studies.spec.SEARCHES` is done, by its kind."""


def searcher_for(context: TrialContext, study_folder: StudyFolder) -> StudySearcher:
    """Return the searcher of a study. Raises NotImplementedError for a search that has none."""
    kind = context.study.spec.search.kind
    if kind not in SEARCHERS:
        raise NotImplementedError(f"search.kind {kind}: add its searcher to jobs.tune.search.SEARCHERS")
    return SEARCHERS[kind](context, study_folder)


def _key(point: StudyPoint) -> Key:
    """The run_ids of a point: two points may be the same runs, since GN has no norm batch."""
    return tuple(run.run_id for run in point.runs)
