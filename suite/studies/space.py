"""A study's space: its axes, by which fields of an experiment get their values, and the points they make up.

To add an axis, derive a class from `AxisSpec` and add it to `AXES`; the YAML's `kind`, its help, draws and
proposals follow from it.
"""

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, Union, get_args

from pydantic import Field, model_validator

from suite.config_file import overlap
from suite.specs.base import Spec
from suite.wording import shown

Point = dict[str, Any]
"""The value of each field by dotted key. A field whose condition does not hold is missing."""


class Proposer(Protocol):
    """Chooses a point's values, by chance or from results so far. Optuna's trials are proposers."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float: ...
    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


MAX_TRIED = 100_000  # combinations, in search of the corners of a space


class AxisSpec(Spec):
    """One field of a space. It goes through its `options`, unless it `is_drawn` for each sample."""

    is_drawn: ClassVar[bool] = False
    kind: str
    when: dict[str, Any] = Field({}, description="only where these fields have this value, or one of these")

    @property
    def allowed(self) -> dict[str, Sequence[Any]]:
        """The values of other fields at which this one is set."""
        return {k: v if isinstance(v, list | tuple) else [v] for k, v in self.when.items()}

    def holds(self, point: Mapping[str, Any]) -> bool:
        """Whether this field is set at a point with the fields before it."""
        return all(look_up(point, key) in values for key, values in self.allowed.items())

    @property
    def needs(self) -> list[tuple[str, str]]:
        """Fields that are set before this one, each with the YAML's key that names it."""
        return [("when", key) for key in self.when]

    @property
    def options(self) -> Sequence[Any]:
        """What a grid goes through; of an interval, its two ends."""
        raise NotImplementedError(f"{type(self).__name__}.options")

    def at(self, key: str, point: Mapping[str, Any], option: Any) -> Any:
        """The value of the field `key` for one of the options. Raises ValueError where there is none."""
        return option

    def propose(self, key: str, point: Mapping[str, Any], proposer: Proposer) -> Any:
        """The value that the proposer chooses; it chooses an option by its place in the list."""
        places = list(range(len(self.options)))
        return self.at(key, point, self.options[proposer.suggest_categorical(key, places)])


class Grid(AxisSpec):
    """Each of these values, with every value of the other grids."""

    kind: Literal["grid"] = "grid"
    values: tuple[Any, ...] = Field(min_length=1)

    @property
    def options(self) -> Sequence[Any]:
        return self.values


class Choice(Grid):
    """One of these values, drawn anew for each sample."""

    is_drawn = True
    kind: Literal["choice"]  # type: ignore[assignment]


EXPONENTS = {"linear": 1.0, "sqrt": 0.5, "constant": 0.0}
"""The rules of a scaled axis: value × (field / reference) ^ exponent."""


class Scaled(AxisSpec):
    """A number that follows another field by each of these rules: value × (field / reference) ^ exponent.

    Linear scaling of the learning rate with the global batch is Goyal et al. 2017's, sqrt Krizhevsky's 2014.
    """

    kind: Literal["scaled"]
    of: str = Field(description="the field that it follows; before this one in the space")
    reference: float = Field(gt=0, description="where that field has this value, the number is `value`")
    value: float
    rules: tuple[Literal[tuple(EXPONENTS)], ...] = Field(("linear",), min_length=1)  # type: ignore[valid-type]

    @property
    def needs(self) -> list[tuple[str, str]]:
        return [*super().needs, ("of", self.of)]

    @property
    def options(self) -> Sequence[Any]:
        return self.rules

    def at(self, key: str, point: Mapping[str, Any], option: Any) -> float:
        field = look_up(point, self.of)
        if not isinstance(field, int | float) or isinstance(field, bool) or field <= 0:
            raise ValueError(f"{key} follows {self.of}, which is {field!r} and not a positive number")
        return float(self.value * (float(field) / self.reference) ** EXPONENTS[option])


class _Interval(AxisSpec):
    is_drawn = True
    is_log: ClassVar[bool]
    low: float
    high: float

    @model_validator(mode="after")
    def _check_bounds(self) -> "_Interval":
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"low {self.low:g} must be less than high {self.high:g}, both finite")
        if self.is_log and self.low <= 0:
            raise ValueError(f"low {self.low:g} must be greater than 0: its logarithm is taken")
        return self

    @property
    def options(self) -> Sequence[Any]:
        return (self.low, self.high)

    def propose(self, key: str, point: Mapping[str, Any], proposer: Proposer) -> float:
        return proposer.suggest_float(key, self.low, self.high, log=self.is_log)


class Uniform(_Interval):
    """A number of this interval, drawn anew for each sample."""

    is_log = False
    kind: Literal["uniform"]


class LogUniform(_Interval):
    """A number of this interval whose logarithm is uniform, drawn anew for each sample."""

    is_log = True
    kind: Literal["loguniform"]


AXES: tuple[type[AxisSpec], ...] = (Grid, Scaled, Choice, Uniform, LogUniform)

if TYPE_CHECKING:
    Axis = AxisSpec
else:
    Axis = Annotated[Union[AXES], Field(discriminator="kind")]  # noqa: UP007 - of a table
Space = dict[str, Axis]


def kinds(table: Sequence[type[Spec]]) -> list[str]:
    """The names by which YAML chooses among the classes of a table."""
    return [get_args(spec.model_fields["kind"].annotation)[0] for spec in table]


def look_up(point: Mapping[str, Any], key: str) -> Any:
    """A field of a point, also one within a mapping that a shorter key was given: `model.norm.kind`."""
    if key in point:
        return point[key]
    for head, value in point.items():
        if key == f"{head}.kind" and isinstance(value, str):
            return value  # the short form of {kind: value}
        if key.startswith(f"{head}.") and isinstance(value, Mapping):
            return look_up(value, key.removeprefix(f"{head}."))
    return None


class _Draws(random.Random):
    """Proposes values by chance."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        return math.exp(self.uniform(math.log(low), math.log(high))) if log else self.uniform(low, high)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.choice(choices)


def points(space: Space, num_samples: int, seed: int, max_tried: int | None = None) -> Iterator[Point]:
    """Every point of the grids, each with the same `num_samples` draws of the other fields; no point twice.

    A field's n-th draw depends on its name, on n and on `seed`, so a study that grows keeps its points.
    Ends after `max_tried` combinations of the grids, if given.
    Raises ValueError for a number that cannot follow another.
    """
    seen: set[str] = set()
    grids = {key: axis.options for key, axis in space.items() if not axis.is_drawn}
    for options in itertools.islice(itertools.product(*grids.values()), max_tried):
        chosen = dict(zip(grids, options, strict=True))
        for sample in range(num_samples):
            point: Point = {}
            for key, axis in space.items():
                if not axis.holds(point):
                    continue
                if axis.is_drawn:
                    point[key] = axis.propose(key, point, _Draws(f"{seed} {key} {sample}"))
                else:
                    point[key] = axis.at(key, point, chosen[key])
            if (name := repr(sorted(point.items()))) not in seen:
                seen.add(name)
                yield point


def corners(space: Space) -> Iterator[Point]:
    """Every combination of values; of an interval, its two ends."""
    grids: Space = {
        key: Grid(values=tuple(axis.options), when=axis.when) if axis.is_drawn else axis
        for key, axis in space.items()
    }
    return points(grids, 1, 0, MAX_TRIED)


def num_combinations(space: Space) -> int:
    """How many combinations of the grids' values there are, with those that conditions make alike."""
    return math.prod(len(axis.options) for axis in space.values() if not axis.is_drawn)


def check_conditions(space: Space, known: Sequence[Point] | None) -> None:
    """Raise ValueError for a condition on a value that its field cannot have, or that holds nowhere.

    `known`: every point of the space, or its corners; None if they are too many.
    """
    for place, (key, axis) in enumerate(space.items()):
        before = dict(list(space.items())[:place])
        for name, wanted in axis.allowed.items():
            where = f"{key}: when: {name}"
            if not wanted:
                raise ValueError(
                    f"{where}: an empty list holds nowhere; give a value, or remove the condition"
                )
            can_be = _values_of(name, before)
            for value in wanted:
                if can_be is not None and not any(value == one for one in can_be):
                    have = ", ".join(shown(one) for one in can_be) or "no value that can be compared"
                    raise ValueError(f"{where}: no point has {shown(value)}; they have {have}")
        if known is not None and not any(key in point for point in known):
            raise ValueError(f"{key}: when: its conditions hold together at no point")


def _values_of(name: str, before: Space) -> list[Any] | None:
    """The values that a field can have by the axes before; None if they are computed from other fields."""
    found: list[Any] = []
    for key, axis in before.items():
        if not f"{name}.".startswith(f"{key}."):
            continue
        if isinstance(axis, Scaled):
            return None if name == key else []
        options = [] if isinstance(axis, _Interval) else axis.options
        found += [look_up({key: option}, name) for option in options]
        if axis.when:
            found.append(None)
    if all(one is None for one in found) and any(name != key for key in before if overlap(key, name)):
        return []  # no value has such a part
    return [one for number, one in enumerate(found) if one not in found[:number]]


def check_order(space: Space) -> None:
    """Raise ValueError for a field that follows one which is not before it, or that is set twice."""
    for place, (key, axis) in enumerate(space.items()):
        before = list(space)[:place]
        for by, name in axis.needs:
            if not any(f"{name}.".startswith(f"{earlier}.") for earlier in before):
                raise ValueError(f"space: {key}: {by}: {name} is no field before it in the space")
        for earlier in before:
            if overlap(key, earlier):
                raise ValueError(f"space: {key} and {earlier} set the same field; keep one of them")
