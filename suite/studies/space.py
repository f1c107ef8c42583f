"""A study's space: which values its fields may take, and the points that come of it."""

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from suite.specs.base import Spec

Point = dict[str, Any]
"""The value of each field by dotted key, without those whose condition does not hold."""


class _Axis(Spec):
    when: dict[str, Any] = Field(
        {}, description="only at points where these fields have this value, or one of these values"
    )

    def holds(self, point: Mapping[str, Any]) -> bool:
        """Whether this field is to be set at a point that has the fields before it."""
        return all(_is(_look_up(point, key), wanted) for key, wanted in self.when.items())


class Grid(_Axis):
    """Each of these values, with every value of the other grids."""

    kind: Literal["grid"] = "grid"
    values: tuple[Any, ...] = Field(min_length=1)


class Scaled(_Axis):
    """A number that follows another field by each of these rules: value × (field / reference) ^ exponent.

    Linear scaling of the learning rate with the global batch is Goyal et al. 2017's, sqrt Krizhevsky's 2014.
    """

    kind: Literal["scaled"]
    of: str = Field(description="the field that it follows; before this one in the space")
    reference: float = Field(gt=0, description="where that field has this value, the number is `value`")
    value: float
    rules: tuple[Literal["linear", "sqrt", "constant"], ...] = Field(("linear",), min_length=1)

    def at(self, key: str, point: Mapping[str, Any], rule: str) -> float:
        """The number of the field `key` at a point. Raises ValueError where there is none to follow."""
        field = _look_up(point, self.of)
        if not isinstance(field, int | float) or isinstance(field, bool) or field <= 0:
            raise ValueError(f"{key} follows {self.of}, which is {field!r} and not a positive number")
        exponent = {"linear": 1.0, "sqrt": 0.5, "constant": 0.0}[rule]
        return float(self.value * (field / self.reference) ** exponent)


class Choice(_Axis):
    """One of these values, drawn anew for each sample."""

    kind: Literal["choice"]
    values: tuple[Any, ...] = Field(min_length=1)

    def draw(self, rng: random.Random) -> Any:
        return rng.choice(self.values)


class _Interval(_Axis):
    low: float
    high: float

    @model_validator(mode="after")
    def _is_one(self) -> "_Interval":
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low {self.low:g} must be less than high {self.high:g}, both finite")
        return self


class Uniform(_Interval):
    """A number of this interval, drawn anew for each sample."""

    kind: Literal["uniform"]

    def draw(self, rng: random.Random) -> float:
        return rng.uniform(self.low, self.high)


class LogUniform(_Interval):
    """A number of this interval whose logarithm is uniform, drawn anew for each sample."""

    kind: Literal["loguniform"]

    @model_validator(mode="after")
    def _is_positive(self) -> "LogUniform":
        if self.low <= 0:
            raise ValueError(f"low {self.low:g} must be greater than 0: its logarithm is taken")
        return self

    def draw(self, rng: random.Random) -> float:
        return math.exp(rng.uniform(math.log(self.low), math.log(self.high)))


Axis = Annotated[Grid | Scaled | Choice | Uniform | LogUniform, Field(discriminator="kind")]
Space = dict[str, Axis]


def is_drawn(space: Space) -> bool:
    """Whether any field is drawn rather than taken from a grid."""
    return any(not isinstance(axis, Grid | Scaled) for axis in space.values())


def points(space: Space, num_samples: int, seed: int) -> Iterator[Point]:
    """Every point of the grids, each with the same `num_samples` draws of the other fields; no point twice.

    A field's n-th draw depends on its name, on n and on `seed`, so a study that grows keeps its points.
    Raises ValueError for a number that cannot follow another.
    """
    seen: set[str] = set()
    for chosen in _grid_points(space):
        for sample in range(num_samples if is_drawn(space) else 1):
            point: Point = {}
            for key, axis in space.items():
                if not axis.holds(point):
                    continue
                if isinstance(axis, Grid):
                    point[key] = chosen[key]
                elif isinstance(axis, Scaled):
                    point[key] = axis.at(key, point, str(chosen[key]))
                else:
                    point[key] = axis.draw(random.Random(f"{seed} {key} {sample}"))
            if (name := repr(sorted(point.items()))) not in seen:
                seen.add(name)
                yield point


def corners(space: Space) -> Iterator[Point]:
    """Every combination of values, an interval standing for its two ends."""
    grids: Space = {}
    for key, axis in space.items():
        if isinstance(axis, Choice):
            grids[key] = Grid(values=axis.values, when=axis.when)
        elif isinstance(axis, Uniform | LogUniform):
            grids[key] = Grid(values=(axis.low, axis.high), when=axis.when)
        else:
            grids[key] = axis
    return points(grids, 1, 0)


def check_order(space: Space) -> None:
    """Raises ValueError for a field that follows one which does not stand before it, or that is set twice."""
    before: list[str] = []
    for key, axis in space.items():
        needed = [(f"when: {name}", name) for name in axis.when]
        needed += [("of: " + axis.of, axis.of)] if isinstance(axis, Scaled) else []
        for said, name in needed:
            if not any(name == earlier or name.startswith(f"{earlier}.") for earlier in before):
                raise ValueError(f"space: {key}: {said} is no field that stands before it in the space")
        for earlier in before:
            if overlap(key, earlier):
                raise ValueError(f"space: {key} and {earlier} set the same field; keep one of them")
        before.append(key)


def overlap(one: str, other: str) -> bool:
    """Whether two dotted keys set the same field, or one a part of the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _grid_points(space: Space) -> Iterator[Point]:
    grids: dict[str, Sequence[Any]] = {}
    for key, axis in space.items():
        if isinstance(axis, Grid | Scaled):
            grids[key] = axis.values if isinstance(axis, Grid) else axis.rules
    for values in itertools.product(*grids.values()):
        yield dict(zip(grids, values, strict=True))


def _look_up(point: Mapping[str, Any], key: str) -> Any:
    """A field of a point, also one within a mapping that a shorter key was given: `model.norm.kind`."""
    if key in point:
        return point[key]
    for head, value in point.items():
        if key.startswith(f"{head}.") and isinstance(value, Mapping):
            return _look_up(value, key.removeprefix(f"{head}."))
    return None


def _is(value: Any, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, list | tuple) else bool(value == wanted)
