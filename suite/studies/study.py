"""Study: points of a space over an experiment's fields. YAML to validated runs, or a refusal.

A trial is a Run. Every point of the space is expanded here, so an impossible one is found before anything
is trained.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from suite.config import expand, explain, load_experiment, read_yaml
from suite.errors import UserError
from suite.experiment import BatchFreeSpec, Experiment, Run, check_batches
from suite.studies.objectives import is_due
from suite.studies.space import Point, corners, overlap, points
from suite.studies.spec import OWN_KEYS, NoStopping, OptunaSearch, StudySpec

MAX_TOLD = 3  # impossible points that are told of one by one
MAX_CORNERS = 2000  # of a space whose points are not known yet, that are tried


@dataclass(frozen=True)
class StudyPoint:
    """One point of the space, and its runs: one for each seed."""

    values: Point
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Study:
    """A study, validated to its last run. `points` are in the order of the space; Optuna's come later."""

    spec: StudySpec
    base: dict[str, Any]
    points: tuple[StudyPoint, ...]
    samples: tuple[Run, ...]
    """Runs of every kind that it will have: all of them, or those at the corners of its space."""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def metrics(self) -> tuple[str, ...]:
        """Of the objectives, the one that decides first."""
        return tuple(objective.metric for objective in self.spec.objectives)

    @property
    def num_trials(self) -> int:
        if isinstance(self.spec.search, OptunaSearch):
            return self.spec.search.num_points * len(self.spec.seeds)
        return len(self.runs)

    @property
    def max_epochs(self) -> int:
        return max(run.recipe.epochs for run in self.samples)

    @property
    def runs(self) -> tuple[Run, ...]:
        """All of them, each once, point by point. Raises UserError where they are not known beforehand."""
        if isinstance(self.spec.search, OptunaSearch):
            raise UserError(
                f"{self.name}: its points are proposed as results come in, so only `shiftbench tune` runs it"
            )
        return tuple({run.run_id: run for point in self.points for run in point.runs}.values())

    def at(self, values: Point) -> StudyPoint:
        """A point and its runs. Raises UserError for an impossible one."""
        return StudyPoint(values, _runs(self.base, values, self.spec))


def load(path: Path, overrides: Sequence[str] = ()) -> Experiment | Study:
    """What a file describes: a study if it has a space, else an experiment. Raises UserError."""
    if {"space", "experiment"} & read_yaml(path).keys():
        return load_study(path, overrides)
    return load_experiment(path, overrides)


def load_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read and expand a study; `overrides` are for its base experiment, or set a key of the study itself.

    Raises UserError, with the number of impossible points if there are any.
    """
    content = read_yaml(path)
    content.setdefault("name", path.stem)
    own = [item for item in overrides if _section(item) in OWN_KEYS]
    content |= read_yaml(path, own) if own else {}
    try:
        spec = StudySpec.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, StudySpec)}") from None
    for_base = [*spec.overrides, *(item for item in overrides if item not in own)]
    for item in for_base:
        key = item.partition("=")[0].strip()
        if _section(item) in OWN_KEYS or any(overlap(key, axis) for axis in spec.space):
            raise UserError(f"override {item!r}: the study itself sets {key}")
    base = read_yaml(path.parent / spec.experiment, for_base)
    try:
        expanded = _expand(base, spec)
        if isinstance(spec.search, OptunaSearch):
            study = Study(spec, base, (), tuple(run for point in expanded for run in point.runs))
        else:
            kept = _without_doubles(expanded)
            study = Study(spec, base, kept, tuple(run for point in kept for run in point.runs))
        _check_objectives(study)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return study


def _section(override: str) -> str:
    return override.partition("=")[0].partition(".")[0].strip()


def _expand(base: dict[str, Any], spec: StudySpec) -> list[StudyPoint]:
    """Every point, or of a space that Optuna searches its corners: what is impossible there is refused."""
    try:
        if isinstance(spec.search, OptunaSearch):
            all_points = list(itertools.islice(corners(spec.space), MAX_CORNERS))
        else:
            all_points = list(points(spec.space, spec.num_samples, spec.sampling_seed))
    except ValueError as error:
        raise UserError(f"space: {error}") from None
    expanded: list[StudyPoint] = []
    impossible: list[str] = []
    for point in all_points:
        try:
            expanded.append(StudyPoint(point, _runs(base, point, spec)))
        except UserError as error:
            impossible.append(f"{_told(point)}: {error}")
    _refuse(impossible, len(all_points))
    return expanded


def _refuse(impossible: Sequence[str], num_points: int) -> None:
    if impossible:
        few, rest = impossible[:MAX_TOLD], len(impossible) - MAX_TOLD
        more = f"; and {rest} more" if rest > 0 else ""
        raise UserError(f"{len(impossible)} of {num_points} points are impossible: {'; '.join(few)}{more}")


def check_points(study: Study, ranks: int) -> None:
    """Raises UserError, with their number, for points whose batches so many ranks cannot make up."""
    impossible: list[str] = []
    for point in study.points:
        try:
            check_batches(point.runs, ranks)
        except UserError as error:
            impossible.append(f"{_told(point.values)}: {error}")
    _refuse(impossible, len(study.points))
    check_batches(study.samples, ranks)  # of a space whose points are not known yet, what is known


def _check_objectives(study: Study) -> None:
    """Raises UserError for an objective that none of the runs will measure, or not in time."""
    runs = study.samples
    for metric in study.metrics:
        if not any(is_due(run, metric, run.recipe.epochs) for run in runs):
            raise UserError(
                f"objectives: none of its runs measures {metric}: it takes BN layers, and for "
                "top1_precise_percent measure.precise_bn_images above 0"
            )
    first = study.metrics[0]
    in_time = [any(is_due(run, first, epoch) for epoch in range(1, run.recipe.epochs)) for run in runs]
    if not isinstance(study.spec.scheduler, NoStopping) and not any(in_time):
        raise UserError(
            f"scheduler: {study.spec.scheduler.kind} judges by {first}, which no run measures before its "
            "last epoch: set measure.eval_every_epochs or measure.probe_every_epochs, or more epochs"
        )


def _runs(base: dict[str, Any], point: Point, spec: StudySpec) -> tuple[Run, ...]:
    content: dict[str, Any] = {**base, "name": spec.name, "seeds": list(spec.seeds)}
    for key, value in point.items():
        content = _with(content, key.split("."), value)
    experiment = expand(content, spec.name)
    if len(experiment.runs) != len(spec.seeds):
        raise UserError("a list sweeps, and a point is one cell: give each field one value, in the base too")
    return experiment.runs


def _with(content: dict[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy with a nested value replaced."""
    head, *rest = keys
    inner = content.get(head)
    if not rest:
        return {**content, head: value}
    return {**content, head: _with(inner if isinstance(inner, dict) else {}, rest, value)}


def _without_doubles(expanded: Sequence[StudyPoint]) -> tuple[StudyPoint, ...]:
    """Without GN's points at every norm batch: it has no statistic over one. Other doubles are refused."""
    found: dict[str, StudyPoint] = {}
    for point in expanded:
        run = point.runs[0]
        former = found.setdefault(run.run_id, point)
        if former is not point and not isinstance(run.model.norm, BatchFreeSpec):
            raise UserError(f"two points are the same run: {_told(former.values)} and {_told(point.values)}")
    return tuple(found.values())


def _told(point: Point) -> str:
    return ", ".join(f"{key}={value}" for key, value in point.items()) or "the base"
