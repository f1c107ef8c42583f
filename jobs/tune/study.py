"""Study: points of a space over an experiment's fields. YAML to validated runs, or a refusal.

A trial is a Run. Every point of the space is expanded here, so an impossible one is found before anything
is trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from jobs.tune.space import Point, Space, check_order, is_drawn, overlap, points
from suite.config import SWEEPING, expand, explain, load_experiment, read_yaml
from suite.errors import UserError
from suite.experiment import BatchFreeSpec, Experiment, Run
from suite.metrics import METRICS
from suite.specs.base import Spec

MAX_TOLD = 3  # impossible points that are told of one by one


class Objective(Spec):
    """A metric of the registry that a study looks at; a per-layer one by its mean over the layers."""

    metric: str
    mode: Literal["max", "min"] | None = Field(None, description="null: the metric's own direction")

    @model_validator(mode="after")
    def _known(self) -> "Objective":
        if self.metric not in METRICS:
            raise ValueError(f"no run measures {self.metric!r}; measured are {', '.join(METRICS)}")
        if self.mode is None:
            direction = METRICS[self.metric].direction
            if direction == "neither":
                raise ValueError(f"{self.metric} is neither better high nor low: give mode, max or min")
            object.__setattr__(self, "mode", "max" if direction == "higher" else "min")
        return self


class StudySpec(Spec):
    """What a study's YAML says."""

    name: str = Field(min_length=1, description="the file's name, unless given")
    experiment: str = Field(description="the base experiment's YAML, relative to this file")
    overrides: tuple[str, ...] = Field((), description="key=value for the base, as on the command line")
    space: Space = Field(
        min_length=1, description="dotted field -> {kind: grid | scaled | choice | uniform | loguniform, …}"
    )
    num_samples: int = Field(1, ge=1, description="draws for each point of the grids, where fields are drawn")
    sampling_seed: int = Field(0, ge=0, description="of the draws")
    seeds: tuple[int, ...] = Field(
        (0, 1, 2), min_length=1, description="of each point's runs, whatever the base says"
    )
    objectives: tuple[Objective, ...] = Field(
        (Objective(metric="top1_percent", mode="max"),), min_length=1, description="what it looks at"
    )

    @model_validator(mode="after")
    def _check(self) -> "StudySpec":
        for key in self.space:
            section = key.partition(".")[0]
            if section not in SWEEPING or section == key or key == "data.path":
                raise ValueError(
                    f"space: {key}: expected a field of {', '.join(SWEEPING)} that decides a result, "
                    "such as recipe.lr"
                )
        check_order(self.space)
        if self.num_samples > 1 and not is_drawn(self.space):
            raise ValueError("num_samples: no field is drawn; remove it")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: expected different numbers, got {list(self.seeds)}")
        return self


@dataclass(frozen=True)
class StudyPoint:
    """One point of the space, and its runs: one for each seed."""

    values: Point
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Study:
    """A study, validated to its last run. `points` are in the order of the space."""

    spec: StudySpec
    points: tuple[StudyPoint, ...]

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def runs(self) -> tuple[Run, ...]:
        """All of them, each once, point by point."""
        return tuple({run.run_id: run for point in self.points for run in point.runs}.values())


def load(path: Path, overrides: Sequence[str] = ()) -> Experiment | Study:
    """What a file describes: a study if it has a space, else an experiment. Raises UserError."""
    if {"space", "experiment"} & read_yaml(path).keys():
        return load_study(path, overrides)
    return load_experiment(path, overrides)


def load_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read and expand a study; `overrides` are for its base experiment, `seeds=` and `name=` for itself.

    Raises UserError, with the number of impossible points if there are any.
    """
    content = read_yaml(path)
    content.setdefault("name", path.stem)
    own = [item for item in overrides if item.partition("=")[0].strip() in ("seeds", "name")]
    content |= read_yaml(path, own) if own else {}
    try:
        spec = StudySpec.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, StudySpec)}") from None
    for_base = [*spec.overrides, *(item for item in overrides if item not in own)]
    for item in for_base:
        key = item.partition("=")[0].strip()
        if key in ("seeds", "name") or any(overlap(key, axis) for axis in spec.space):
            raise UserError(f"override {item!r}: the study itself sets {key}")
    base = read_yaml(path.parent / spec.experiment, for_base)
    expanded: list[StudyPoint] = []
    impossible: list[str] = []
    try:
        all_points = list(points(spec.space, spec.num_samples, spec.sampling_seed))
    except ValueError as error:
        raise UserError(f"{path}: space: {error}") from None
    for point in all_points:
        try:
            expanded.append(StudyPoint(point, _runs(base, point, spec)))
        except UserError as error:
            impossible.append(f"{_told(point)}: {error}")
    if impossible:
        few, rest = impossible[:MAX_TOLD], len(impossible) - MAX_TOLD
        more = f"; and {rest} more" if rest > 0 else ""
        raise UserError(
            f"{path}: {len(impossible)} of {len(all_points)} points are impossible: {'; '.join(few)}{more}"
        )
    try:
        return Study(spec, _without_doubles(expanded))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


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
