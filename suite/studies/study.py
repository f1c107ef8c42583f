"""Study: a space over an experiment's fields. YAML to validated runs, or a refusal.

A trial is a Run. Every point of the space is expanded here, so impossible points are found before training.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from suite.config import MAX_RUNS, expand, experiment_of
from suite.config_file import ConfigFile, key_in, naming, overlap, override_key, read_config
from suite.errors import UserError
from suite.experiment import BatchFreeSpec, Experiment, Run, check_batches
from suite.studies.space import Point, check_conditions, corners, num_combinations, points
from suite.studies.spec import OWN_KEYS, StoppingSpec, StudySpec, is_due
from suite.wording import explain, shown

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
        """Return a point with its runs. Raises UserError for an impossible one."""
        content: dict[str, Any] = {**self.base, "name": self.name, "seeds": list(self.spec.seeds)}
        for key, value in values.items():
            content = _with(content, key.split("."), value)
        runs = expand(content, self.name).runs
        if len(runs) != len(self.spec.seeds):
            several = "a point is one cell, but a list gives several"
            raise UserError(f"space: {several}: give each field one value, in the base too")
        return StudyPoint(values, runs)


def load(path: Path, overrides: Sequence[str] = ()) -> Experiment | Study:
    """Read a study, if the file has a space, or else an experiment. Raises UserError."""
    file = read_config(path, "experiment")
    return study_of(file, overrides) if file.kind == "study" else experiment_of(file, overrides)


def load_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read and expand a study. `overrides` set fields of its base experiment, or keys of the study itself.

    Raises UserError, with the number of impossible points if there are any.
    """
    return study_of(read_config(path, "study"), overrides)


def study_of(file: ConfigFile, overrides: Sequence[str] = ()) -> Study:
    """Return the study that a file describes. Raises UserError that names the file."""
    file.check_kind("study")
    own = [item for item in overrides if _section(item) in OWN_KEYS]
    content = {"name": file.path.stem, **file.resolved(own)}
    with naming(file.path, overrides=own):
        try:
            spec = StudySpec.model_validate(content)
        except ValidationError as error:
            raise UserError(explain(error, StudySpec)) from None
    for_base = [*spec.overrides, *(item for item in overrides if item not in own)]
    for item in for_base:
        key = override_key(item)
        if _section(item) in OWN_KEYS or any(overlap(key, axis) for axis in spec.space):
            raise UserError(f"{file.path}: override {shown(item)}: the study itself sets {key}")
    base = read_config(file.path.parent / spec.experiment, "experiment")
    base.check_kind("experiment")
    study = Study(spec, base.resolved(for_base), (), ())
    try:
        with naming(file.path, overrides=overrides):
            found = _for_each([(values, values) for values in _known_values(spec)], study.at)
            kept = () if study.is_proposed else _without_repeats(found)
            samples = tuple(run for point in kept or found for run in point.runs)
            study = replace(study, points=kept, samples=samples)
            _check_objectives(study)
    except _BaseFault as fault:
        with naming(base.path, overrides=for_base):
            raise UserError(str(fault)) from None
    return study


class _BaseFault(Exception):
    """Every point is impossible for one reason, which is not in a field of the space."""


def _section(override: str) -> str:
    return override_key(override).partition(".")[0]


def _known_values(spec: StudySpec) -> list[Point]:
    """Every point, or corners of the space if points are proposed. Raises UserError."""
    space, num_proposed, num_seeds = spec.space, spec.search.num_proposed, len(spec.seeds)
    if (num_proposed or 0) * num_seeds > MAX_RUNS:
        asked = f"{num_proposed:,} points × {num_seeds} seeds"
        raise UserError(f"search.num_points: {asked} are more than {MAX_RUNS:,} runs; take fewer")
    number = num_combinations(space) * spec.num_samples
    if num_proposed is None and number * num_seeds > MAX_RUNS:
        key = "num_samples" if num_combinations(space) * num_seeds <= MAX_RUNS else "space"
        asked = f"{number:,} points × {num_seeds} seeds"
        fewer = "take fewer, or search: {kind: optuna, num_points: …}"
        raise UserError(f"{key}: {asked} are more than {MAX_RUNS:,} runs; {fewer}")
    try:
        if num_proposed is not None:
            known = list(itertools.islice(corners(space), MAX_CORNERS))
        else:
            known = list(points(space, spec.num_samples, spec.sampling_seed))
        check_conditions(space, known if len(known) < MAX_CORNERS or num_proposed is None else None)
    except (ValueError, OverflowError) as error:
        raise UserError(f"space: {error}") from None
    return known


def _for_each(items: Sequence[tuple[Point, Any]], call: Callable[[Any], Any]) -> list[Any]:
    """Call a function for each point. Raises UserError, with their number, for impossible points.

    Raises _BaseFault for a fault that is not one of the space.
    """
    made, impossible, reasons = list[Any](), list[str](), set[str]()
    for values, item in items:
        try:
            made.append(call(item))
        except UserError as error:
            impossible.append(f"{_shown(values)}: {error}")
            reasons.add(str(error))
    if impossible:
        key = key_in(min(reasons))
        is_of_space = any(overlap(key, field) for values, _ in items for field in values)
        if len(reasons) == 1 and len(impossible) == len(items) and "." in key and not is_of_space:
            raise _BaseFault(min(reasons))
        few, rest = impossible[:MAX_LISTED], len(impossible) - MAX_LISTED
        more = f"; and {rest} more" if rest > 0 else ""
        raise UserError(f"{len(impossible)} of {len(items)} points are impossible: {'; '.join(few)}{more}")
    return made


def check_points(study: Study, ranks: int) -> None:
    """Raise UserError, with their number, for points whose batches do not divide over so many ranks."""
    _for_each([(one.values, one.runs) for one in study.points], lambda runs: check_batches(runs, ranks))
    check_batches(study.samples, ranks)  # the corners, if points are proposed later


def _check_objectives(study: Study) -> None:
    """Raise UserError for an objective that no run measures, or none before its last epoch."""
    for metric in study.metrics:
        if not any(is_due(run, metric, run.num_epochs) for run in study.samples):
            raise UserError(
                f"objectives: none of its runs measures {metric}: it takes BN layers, for PreciseBN "
                "measure.precise_bn_images above 0, and for averaged weights recipe.ema_decay or recipe.swa"
            )
    first, kind = study.metrics[0], study.spec.scheduler.kind
    in_time = (is_due(run, first, n) for run in study.samples for n in range(1, run.num_epochs))
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
    """Drop repeats of batch-free norms, which have no norm batch. Raises UserError for other repeats."""
    found: dict[str, StudyPoint] = {}
    for point in expanded:
        run = point.runs[0]
        former = found.setdefault(run.run_id, point)
        if former is not point and not isinstance(run.model.norm, BatchFreeSpec):
            raise UserError(
                f"space: two points are the same run: {_shown(former.values)}; {_shown(point.values)}"
            )
    return tuple(found.values())


def _shown(point: Point) -> str:
    return ", ".join(f"{key}={shown(value)}" for key, value in point.items()) or "the base"
