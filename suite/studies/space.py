"""A study's space: the points that its axes make up, and which spaces are refused."""

import itertools
import random
from collections.abc import Iterator

from suite.studies.axes import Axis, Grid, Point

Space = dict[str, Axis]


def is_drawn(space: Space) -> bool:
    """Whether any field is drawn rather than taken from a grid."""
    return any(axis.is_drawn for axis in space.values())


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
                if axis.is_drawn:
                    point[key] = axis.draw(random.Random(f"{seed} {key} {sample}"))
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
        needed = [(f"when: {name}", name) for name in axis.when] + [
            (f"of: {name}", name) for name in axis.follows
        ]
        for said, name in needed:
            if not any(name == earlier or name.startswith(f"{earlier}.") for earlier in before):
                raise ValueError(f"space: {key}: {said} is no field before it in the space")
        for earlier in before:
            if overlap(key, earlier):
                raise ValueError(f"space: {key} and {earlier} set the same field; keep one of them")
        before.append(key)


def overlap(one: str, other: str) -> bool:
    """Whether two dotted keys set the same field, or one a part of the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _grid_points(space: Space) -> Iterator[Point]:
    grids = {key: axis.options for key, axis in space.items() if not axis.is_drawn}
    for values in itertools.product(*grids.values()):
        yield dict(zip(grids, values, strict=True))
