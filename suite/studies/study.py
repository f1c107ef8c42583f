"""Study: a space over an experiment's fields. YAML to validated runs, or a refusal.

A trial is a Run. Every point of the space is expanded here, so impossible points are found before training.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from suite.config import expand, explain, load_experiment, read_yaml
from suite.errors import UserError
from suite.experiment import BatchFreeSpec, Experiment, Run, check_batches
from suite.studies.space import Point, corners, overlap, points
from suite.studies.spec import OWN_KEYS, StoppingSpec, StudySpec, is_due

MAX_LISTED = 3  # impossible points in a refusal
MAX_CORNERS = 2000  # that are tried, of a space whose points are proposed later


@dataclass(frozen=True)
class StudyPoint:
    """One point of the space, and its runs: one for each seed."""

    values: Point
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Study:
    """A study whose runs are all valid. `points` follow the order of the space; proposed ones come later."""

    spec: StudySpec
    base: dict[str, Any]
    points: tuple[StudyPoint, ...]
    samples: tuple[Run, ...]
    """All runs, or those at the corners of the space if its points are proposed."""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def metrics(self) -> tuple[str, ...]:
        """The objectives' metrics, the deciding one first."""
        return tuple(objective.metric for objective in self.spec.objectives)

    @property
    def is_proposed(self) -> bool:
        """Whether its points are proposed as results come in, rather than known beforehand."""
        return self.spec.search.num_proposed is not None

    @property
    def num_trials(self) -> int:
        num_proposed = self.spec.search.num_proposed
        return len(self.runs) if num_proposed is None else num_proposed * len(self.spec.seeds)

    @property
    def runs(self) -> tuple[Run, ...]:
        """Each run once, point by point. Raises UserError where they are not known beforehand."""
        if self.is_proposed:
            raise UserError(f"{self.name}: its points are proposed later, so only `shiftbench tune` runs it")
        return self.samples

    def at(self, values: Point) -> StudyPoint:
        """Returns a point with its runs. Raises UserError for an impossible one."""
        content: dict[str, Any] = {**self.base, "name": self.name, "seeds": list(self.spec.seeds)}
        for key, value in values.items():
            content = _with(content, key.split("."), value)
        runs = expand(content, self.name).runs
        if len(runs) != len(self.spec.seeds):
            raise UserError(
                "a point is one cell, but a list gives several: give each field one value, in the base too"
            )
        return StudyPoint(values, runs)


def load(path: Path, overrides: Sequence[str] = ()) -> Experiment | Study:
    """Reads a study, if the file has a space, or else an experiment. Raises UserError."""
    if {"space", "experiment"} & read_yaml(path).keys():
        return load_study(path, overrides)
    return load_experiment(path, overrides)


def load_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Reads and expands a study. `overrides` set fields of its base experiment, or keys of the study itself.

    Raises UserError, with the number of impossible points if there are any.
    """
    own = [item for item in overrides if _section(item) in OWN_KEYS]
    content = {"name": path.stem, **read_yaml(path, own)}
    try:
        spec = StudySpec.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, StudySpec)}") from None
    for_base = [*spec.overrides, *(item for item in overrides if item not in own)]
    for item in for_base:
        key = item.partition("=")[0].strip()
        if _section(item) in OWN_KEYS or any(overlap(key, axis) for axis in spec.space):
            raise UserError(f"override {item!r}: the study itself sets {key}")
    study = Study(spec, read_yaml(path.parent / spec.experiment, for_base), (), ())
    try:
        found = _for_each([(values, values) for values in _known_values(spec)], study.at)
        kept = () if study.is_proposed else _without_repeats(found)
        samples = tuple(run for point in kept or found for run in point.runs)
        study = replace(study, points=kept, samples=samples)
        _check_objectives(study)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return study


def _section(override: str) -> str:
    return override.partition("=")[0].partition(".")[0].strip()


def _known_values(spec: StudySpec) -> list[Point]:
    """Every point, or corners of the space if points are proposed. Raises UserError."""
    try:
        if spec.search.num_proposed is not None:
            return list(itertools.islice(corners(spec.space), MAX_CORNERS))
        return list(points(spec.space, spec.num_samples, spec.sampling_seed))
    except ValueError as error:
        raise UserError(f"space: {error}") from None


def _for_each(items: Sequence[tuple[Point, Any]], call: Callable[[Any], Any]) -> list[Any]:
    """Calls a function for each point. Raises UserError, with their number, for impossible points."""
    made, impossible = [], []
    for values, item in items:
        try:
            made.append(call(item))
        except UserError as error:
            impossible.append(f"{_shown(values)}: {error}")
    if impossible:
        few, rest = impossible[:MAX_LISTED], len(impossible) - MAX_LISTED
        more = f"; and {rest} more" if rest > 0 else ""
        raise UserError(f"{len(impossible)} of {len(items)} points are impossible: {'; '.join(few)}{more}")
    return made


def check_points(study: Study, ranks: int) -> None:
    """Raises UserError, with their number, for points whose batches do not divide over so many ranks."""
    _for_each([(one.values, one.runs) for one in study.points], lambda runs: check_batches(runs, ranks))
    check_batches(study.samples, ranks)  # the corners, if points are proposed later


def _check_objectives(study: Study) -> None:
    """Raises UserError for an objective that no run measures, or none before its last epoch."""
    for metric in study.metrics:
        if not any(is_due(run, metric, run.recipe.epochs) for run in study.samples):
            raise UserError(
                f"objectives: none of its runs measures {metric}: it takes BN layers, and for "
                "top1_precise_percent measure.precise_bn_images above 0"
            )
    first, kind = study.metrics[0], study.spec.scheduler.kind
    in_time = (is_due(run, first, n) for run in study.samples for n in range(1, run.recipe.epochs))
    if isinstance(study.spec.scheduler, StoppingSpec) and not any(in_time):
        raise UserError(
            f"scheduler: {kind} judges by {first}, which no run measures before its last epoch: set "
            "measure.eval_every_epochs or measure.probe_every_epochs, or more epochs"
        )


def _with(content: Any, keys: Sequence[str], value: Any) -> Any:
    """A copy of the mapping with a nested value replaced."""
    if not keys:
        return value
    inner = content if isinstance(content, dict) else {}
    return {**inner, keys[0]: _with(inner.get(keys[0]), keys[1:], value)}


def _without_repeats(expanded: Sequence[StudyPoint]) -> tuple[StudyPoint, ...]:
    """Drops repeats of batch-free norms, which have no norm batch. Raises UserError for other repeats."""
    found: dict[str, StudyPoint] = {}
    for point in expanded:
        run = point.runs[0]
        former = found.setdefault(run.run_id, point)
        if former is not point and not isinstance(run.model.norm, BatchFreeSpec):
            raise UserError(f"two points are the same run: {_shown(former.values)}; {_shown(point.values)}")
    return tuple(found.values())


def _shown(point: Point) -> str:
    return ", ".join(f"{key}={value}" for key, value in point.items()) or "the base"
