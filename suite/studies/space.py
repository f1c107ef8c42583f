"""A study's space: the points that its axes make up, and which spaces are refused."""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

from suite.studies.axes import Axis, Grid, Point

Space = dict[str, Axis]


class _Draws(random.Random):
    """Proposes values by chance."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        return math.exp(self.uniform(math.log(low), math.log(high))) if log else self.uniform(low, high)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.choice(choices)


def is_drawn(space: Space) -> bool:
    """Whether any field is drawn rather than taken from a grid."""
    return any(axis.is_drawn for axis in space.values())


def points(space: Space, num_samples: int, seed: int) -> Iterator[Point]:
    """Every point of the grids, each with the same `num_samples` draws of the other fields; no point twice.

    A field's n-th draw depends on its name, on n and on `seed`, so a study that grows keeps its points.
    Raises ValueError for a number that cannot follow another.
    """
    seen: set[str] = set()
    grids = {key: axis.options for key, axis in space.items() if not axis.is_drawn}
    for options in itertools.product(*grids.values()):
        chosen = dict(zip(grids, options, strict=True))
        for sample in range(num_samples if is_drawn(space) else 1):
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
    return points(grids, 1, 0)


def check_order(space: Space) -> None:
    """Raises ValueError for a field that follows one which is not before it, or that is set twice."""
    before: list[str] = []
    for key, axis in space.items():
        for by, name in axis.needs:
            if not any(f"{name}.".startswith(f"{earlier}.") for earlier in before):
                raise ValueError(f"space: {key}: {by}: {name} is no field before it in the space")
        for earlier in before:
            if overlap(key, earlier):
                raise ValueError(f"space: {key} and {earlier} set the same field; keep one of them")
        before.append(key)


def overlap(one: str, other: str) -> bool:
    """Whether two dotted keys set the same field, or one a part of the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")
