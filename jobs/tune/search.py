"""Which run comes next: every point in turn, or points that Optuna proposes from the results so far."""

import math
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ray.tune.search import Searcher

from jobs.tune.engine import DriverOnly
from jobs.tune.epoch_results import read_results
from jobs.tune.study_folder import StudyFolder
from jobs.tune.trial import TrialContext, is_result
from suite.errors import UserError
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import read_status
from suite.studies.space import Choice, Grid, LogUniform, Point, Scaled, Uniform
from suite.studies.study import Study, StudyPoint

if TYPE_CHECKING:
    from optuna import Trial as Proposal

Key = tuple[str, ...]
# A space of few values is soon proposed whole.
MAX_REPEATS = 50


def trial_config(point: StudyPoint, run: Run) -> dict[str, Any]:
    """What Tune knows of a trial: the point, the seed, and where its record lies."""
    return {"point": point.values, "seed": run.seed, "run_id": run.run_id, "folder": run.folder_name}


class _InTurn(DriverOnly, Searcher):  # type: ignore[misc]
    """Hands out trials one by one."""

    def __init__(self, metric: str, mode: str) -> None:
        super().__init__(metric=metric, mode=mode)

    def set_search_properties(self, metric: str | None, mode: str | None, config: Any, **_: Any) -> bool:
        return True

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing to learn here."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a driver that comes after begins from the records."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, too."""


class EveryRun(_InTurn):
    """The study's runs, point by point."""

    def __init__(self, study: Study) -> None:
        super().__init__(study.metrics[0], str(study.spec.objectives[0].mode))
        self.runs = study.runs
        self.is_over, self.left_out = True, 0
        self._configs: Iterator[dict[str, Any]] = iter(_configs(study))

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        return next(self._configs, Searcher.FINISHED)


def _configs(study: Study) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for point in study.points:
        for run in point.runs:
            found.setdefault(run.run_id, trial_config(point, run))
    return list(found.values())


class Proposals(_InTurn):
    """Optuna's points, each with every seed; told the mean over the seeds that came to a value."""

    def __init__(self, setting: TrialContext, study_folder: StudyFolder) -> None:
        study = setting.study
        super().__init__(study.metrics[0], str(study.spec.objectives[0].mode))
        optuna = import_optuna()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.setting, self.study, self.study_folder = setting, study, study_folder
        several = len(study.metrics) > 1
        seed = study.spec.sampling_seed
        sampler = (
            optuna.samplers.NSGAIISampler(seed=seed) if several else optuna.samplers.TPESampler(seed=seed)
        )
        ways = ["maximize" if o.mode == "max" else "minimize" for o in study.spec.objectives]
        self._optuna = optuna.create_study(directions=ways, sampler=sampler)
        self._waiting: deque[tuple[StudyPoint, Run]] = deque()
        self._proposed: dict[Key, Proposal] = {}
        self._points: dict[Key, StudyPoint] = {}
        self._open: dict[Key, set[str]] = {}
        self._given: dict[str, str] = {}
        self.left_out = 0
        for params, values in study_folder.noted_points():
            if self._is_possible(params, values):
                self._optuna.enqueue_trial(params)
                self._take(self._optuna.ask())
            else:
                self.left_out += 1

    @property
    def is_over(self) -> bool:
        """Whether no further point is proposed."""
        search = self.study.spec.search
        assert search.kind == "optuna"
        return self.study_folder.is_search_over or len(self._points) >= search.num_points

    def _is_possible(self, params: dict[str, Any], values: Point) -> bool:
        """Whether a point of an earlier driver is one of the study as it is now."""
        try:
            point = self._values(import_optuna().trial.FixedTrial(params))
            return point == values and bool(self.study.at(point).runs)
        except (UserError, ValueError, IndexError, KeyError):
            return False

    @property
    def runs(self) -> list[Run]:
        """Of every point that was proposed so far."""
        return [run for point in self._points.values() for run in point.runs]

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if not self._waiting and (self.is_over or not self._propose()):
            return str(Searcher.FINISHED)
        point, run = self._waiting.popleft()
        self._given[trial_id] = run.run_id
        return trial_config(point, run)

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        run_id = self._given.pop(trial_id, None)
        for key, left in self._open.items():
            if run_id in left:
                left.discard(run_id)
                if not left:
                    self._tell(key)

    def _propose(self) -> bool:
        """Ask for a point that is new; false when none is found."""
        optuna = import_optuna()
        for _ in range(MAX_REPEATS):
            trial = self._optuna.ask()
            values = self._values(trial)
            try:
                is_new = _key(self.study.at(values)) not in self._points
            except UserError:  # between the corners of the space
                is_new = False
            if is_new:
                self.study_folder.note_point(trial.params, values)
                self._take(trial)
                return True
            self._optuna.tell(trial, state=optuna.trial.TrialState.FAIL)
        self.study_folder.note_end_of_search()
        return False

    def _take(self, trial: "Proposal") -> None:
        point = self.study.at(self._values(trial))
        key = _key(point)
        self._proposed[key], self._points[key] = trial, point
        self._open[key] = {run.run_id for run in point.runs}
        self._waiting.extend((point, run) for run in point.runs)
        if all(is_result(run, self.setting) for run in point.runs):
            self._open[key] = set()
            self._tell(key)

    def _values(self, trial: "Proposal") -> Point:
        """The point of a proposal; what is no number is proposed by its place in the list."""
        point: Point = {}
        for key, axis in self.study.spec.space.items():
            if not axis.holds(point):
                continue
            if isinstance(axis, Uniform | LogUniform):
                is_log = isinstance(axis, LogUniform)
                point[key] = trial.suggest_float(key, axis.low, axis.high, log=is_log)
            elif isinstance(axis, Scaled):
                point[key] = axis.at(key, point, axis.rules[self._place(trial, key, len(axis.rules))])
            else:
                assert isinstance(axis, Grid | Choice)
                point[key] = axis.values[self._place(trial, key, len(axis.values))]
        return point

    @staticmethod
    def _place(trial: "Proposal", key: str, count: int) -> int:
        return int(trial.suggest_categorical(key, list(range(count))))

    def _tell(self, key: Key) -> None:
        optuna = import_optuna()
        resources = [self._mean(self._points[key].runs, metric) for metric in self.study.metrics]
        if all(math.isfinite(mean) for mean in resources):
            self._optuna.tell(self._proposed[key], resources)
        else:
            self._optuna.tell(self._proposed[key], state=optuna.trial.TrialState.FAIL)

    def _mean(self, runs: tuple[Run, ...], metric: str) -> float:
        """Over all seeds, of the newest value; NaN if one of them has none, or did not end well."""
        values = []
        for run in runs:
            folder = self.setting.place.output_dir / run.folder_name
            results = read_results(folder, [metric])
            is_well = read_status(RunPaths(folder)).state in ("completed", "stopped", "running", "preempted")
            values.append(results[-1].values[metric] if results and is_well else math.nan)
        return math.fsum(values) / len(values)


def _key(point: StudyPoint) -> Key:
    """Two points may be the same runs: GN has no norm batch."""
    return tuple(run.run_id for run in point.runs)


def import_optuna() -> Any:
    """Raises UserError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise UserError("search: optuna is not installed: pip install 'shiftbench[optuna]'") from None
    return optuna
