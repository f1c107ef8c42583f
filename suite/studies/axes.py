"""The axes of a study's space: how one field of an experiment gets its values.

To add an axis, derive a class from `AxisSpec` and add it to `AXES`; the YAML's `kind`, its help and Optuna's
proposals follow from it.
"""

import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, Union, get_args

from pydantic import Field, model_validator

from suite.specs.base import Spec

Point = dict[str, Any]
"""The value of each field by dotted key. A field whose condition does not hold is missing."""


class Proposer(Protocol):
    """Chooses the values of a point that a search proposes: a number of an interval, a place in a list."""

    def number(self, key: str, low: float, high: float, *, is_log: bool) -> float: ...
    def index(self, key: str, count: int) -> int: ...


class AxisSpec(Spec):
    """One field of a space: a grid, which goes through its `options`, or drawn."""

    is_drawn: ClassVar[bool]
    kind: str
    when: dict[str, Any] = Field(
        {}, description="only at points where these fields have this value, or one of these values"
    )

    def holds(self, point: Mapping[str, Any]) -> bool:
        """Whether this field is set at a point that has the fields before it."""
        return all(_matches(look_up(point, key), wanted) for key, wanted in self.when.items())

    @property
    def follows(self) -> tuple[str, ...]:
        """Fields that this one is computed from."""
        return ()

    @property
    def options(self) -> Sequence[Any]:
        """What a grid goes through; of a drawn field, its values at the corners of the space."""
        raise NotImplementedError(f"{type(self).__name__}.options")

    def at(self, key: str, point: Mapping[str, Any], option: Any) -> Any:
        """The value of the field `key` for one of the options. Raises ValueError where there is none."""
        return option

    def draw(self, rng: random.Random) -> Any:
        raise NotImplementedError(f"{type(self).__name__}.draw")

    def propose(self, key: str, point: Mapping[str, Any], proposer: Proposer) -> Any:
        """The value that a search proposes; an option is proposed by its place in the list."""
        return self.at(key, point, self.options[proposer.index(key, len(self.options))])


class _Listed(AxisSpec):
    values: tuple[Any, ...] = Field(min_length=1)

    @property
    def options(self) -> Sequence[Any]:
        return self.values


class Grid(_Listed):
    """Each of these values, with every value of the other grids."""

    is_drawn = False
    kind: Literal["grid"] = "grid"


class Choice(_Listed):
    """One of these values, drawn anew for each sample."""

    is_drawn = True
    kind: Literal["choice"]

    def draw(self, rng: random.Random) -> Any:
        return rng.choice(self.values)


class Scaled(AxisSpec):
    """A number that follows another field by each of these rules: value × (field / reference) ^ exponent.

    Linear scaling of the learning rate with the global batch is Goyal et al. 2017's, sqrt Krizhevsky's 2014.
    """

    is_drawn = False
    kind: Literal["scaled"]
    of: str = Field(description="the field that it follows; before this one in the space")
    reference: float = Field(gt=0, description="where that field has this value, the number is `value`")
    value: float
    rules: tuple[Literal["linear", "sqrt", "constant"], ...] = Field(("linear",), min_length=1)

    @property
    def follows(self) -> tuple[str, ...]:
        return (self.of,)

    @property
    def options(self) -> Sequence[Any]:
        return self.rules

    def at(self, key: str, point: Mapping[str, Any], option: Any) -> float:
        field = look_up(point, self.of)
        if not isinstance(field, int | float) or isinstance(field, bool) or field <= 0:
            raise ValueError(f"{key} follows {self.of}, which is {field!r} and not a positive number")
        exponent = {"linear": 1.0, "sqrt": 0.5, "constant": 0.0}[option]
        return float(self.value * (field / self.reference) ** exponent)


class _Interval(AxisSpec):
    is_drawn = True
    is_log: ClassVar[bool]
    low: float
    high: float

    @model_validator(mode="after")
    def _check_bounds(self) -> "_Interval":
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low {self.low:g} must be less than high {self.high:g}, both finite")
        if self.is_log and self.low <= 0:
            raise ValueError(f"low {self.low:g} must be greater than 0: its logarithm is taken")
        return self

    @property
    def options(self) -> Sequence[Any]:
        return (self.low, self.high)

    def propose(self, key: str, point: Mapping[str, Any], proposer: Proposer) -> float:
        return proposer.number(key, self.low, self.high, is_log=self.is_log)


class Uniform(_Interval):
    """A number of this interval, drawn anew for each sample."""

    is_log = False
    kind: Literal["uniform"]

    def draw(self, rng: random.Random) -> float:
        return rng.uniform(self.low, self.high)


class LogUniform(_Interval):
    """A number of this interval whose logarithm is uniform, drawn anew for each sample."""

    is_log = True
    kind: Literal["loguniform"]

    def draw(self, rng: random.Random) -> float:
        return math.exp(rng.uniform(math.log(self.low), math.log(self.high)))


AXES: tuple[type[AxisSpec], ...] = (Grid, Scaled, Choice, Uniform, LogUniform)

if TYPE_CHECKING:
    Axis = AxisSpec
else:
    Axis = Annotated[Union[AXES], Field(discriminator="kind")]  # noqa: UP007 - of a table


def kinds(table: Sequence[type[Spec]]) -> list[str]:
    """The names by which YAML chooses among the classes of a table."""
    return [get_args(spec.model_fields["kind"].annotation)[0] for spec in table]


def look_up(point: Mapping[str, Any], key: str) -> Any:
    """A field of a point, also one within a mapping that a shorter key was given: `model.norm.kind`."""
    if key in point:
        return point[key]
    for head, value in point.items():
        if key.startswith(f"{head}.") and isinstance(value, Mapping):
            return look_up(value, key.removeprefix(f"{head}."))
    return None


def _matches(value: Any, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, list | tuple) else bool(value == wanted)
