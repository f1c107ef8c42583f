"""Which points a space has: counted and computed by hand."""

import math
import random
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from suite.studies.space import Space, check_order, points

ADAPTER: TypeAdapter[Space] = TypeAdapter(Space)


def space(**axes: Any) -> Space:
    return ADAPTER.validate_python({key.replace("__", "."): axis for key, axis in axes.items()})


def test_grids_are_a_product_in_the_order_of_the_file() -> None:
    two = space(a__x={"kind": "grid", "values": [1, 2]}, b__y={"kind": "grid", "values": ["u", "v"]})
    found = [tuple(point.values()) for point in points(two, 1, 0)]
    assert found == [(1, "u"), (1, "v"), (2, "u"), (2, "v")]


def test_a_condition_leaves_a_field_out_and_makes_no_doubles() -> None:
    some = space(
        model__norm={"kind": "grid", "values": [{"kind": "bn"}, {"kind": "xbn"}, {"kind": "gn"}]},
        batch__norm={"kind": "grid", "values": [2, 4], "when": {"model.norm.kind": ["bn", "xbn"]}},
        recipe__lr={"kind": "grid", "values": [0.1, 0.2], "when": {"batch.norm": 4}},
    )
    found = [
        (point["model.norm"]["kind"], point.get("batch.norm"), point.get("recipe.lr"))
        for point in points(some, 1, 0)
    ]
    of_two = [(kind, n, lr) for kind in ("bn", "xbn") for n, lr in ((2, None), (4, 0.1), (4, 0.2))]
    assert found == [*of_two, ("gn", None, None)]


def test_a_number_that_follows_another() -> None:
    scaled = space(
        batch__global={"kind": "grid", "values": [64, 256, 1024]},
        recipe__lr={
            "kind": "scaled",
            "of": "batch.global",
            "reference": 256,
            "value": 0.1,
            "rules": ["linear", "sqrt", "constant"],
        },
    )
    found = [(point["batch.global"], round(point["recipe.lr"], 12)) for point in points(scaled, 1, 0)]
    # At the reference all rules agree: one point.
    by_hand = [(64, 0.025), (64, 0.05), (64, 0.1), (256, 0.1), (1024, 0.4), (1024, 0.2), (1024, 0.1)]
    assert found == by_hand


def test_a_number_cannot_follow_what_is_not_there() -> None:
    scaled = space(recipe__lr={"kind": "scaled", "of": "batch.globl", "reference": 256, "value": 0.1})
    with pytest.raises(ValueError, match=r"recipe\.lr follows batch\.globl, which is None"):
        list(points(scaled, 1, 0))


def test_draws_depend_on_the_seed_alone() -> None:
    drawn = space(
        a__x={"kind": "grid", "values": [1, 2]},
        b__lr={"kind": "loguniform", "low": 0.01, "high": 1.0},
        c__y={"kind": "uniform", "low": -1, "high": 1, "when": {"a.x": 1}},
        d__z={"kind": "choice", "values": [7, 8]},
    )
    first, again = list(points(drawn, 50, 3)), list(points(drawn, 50, 3))
    assert first == again
    assert len(first) == 100
    assert list(points(drawn, 50, 4)) != first
    by_hand = random.Random("3 b.lr 0").uniform(math.log(0.01), math.log(1.0))
    assert first[0]["b.lr"] == math.exp(by_hand)
    # The same at every point of the grids, so that none has more tries than another.
    assert [point["b.lr"] for point in first[:50]] == [point["b.lr"] for point in first[50:]]
    assert all(0.01 <= point["b.lr"] <= 1.0 for point in first)
    assert all(("c.y" in point) is (point["a.x"] == 1) for point in first)
    # Half of the draws below the middle of the logarithm: 0.1, and not of the interval.
    assert 30 < sum(point["b.lr"] < 0.1 for point in first) < 70


def test_a_condition_gives_no_point_more_draws_and_a_longer_grid_keeps_its_points() -> None:
    def some(*norm_batches: int) -> Space:
        return space(
            model__norm={"kind": "grid", "values": [{"kind": "bn"}, {"kind": "gn"}]},
            batch__norm={"kind": "grid", "values": norm_batches, "when": {"model.norm.kind": "bn"}},
            recipe__lr={"kind": "loguniform", "low": 0.01, "high": 1.0},
        )

    found = list(points(some(2, 4, 8), 5, 0))
    assert sum(point["model.norm"]["kind"] == "gn" for point in found) == 5
    assert len(found) == 3 * 5 + 5
    longer = list(points(some(2, 4, 8, 16), 5, 0))
    assert all(point in longer for point in found)


@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        (
            {"b__y": {"kind": "grid", "values": [1], "when": {"a.z": 1}}},
            "b.y: when: a.z is no field",
        ),
        ({"b__y": {"kind": "scaled", "of": "c.z", "reference": 1, "value": 1}}, "b.y: of: c.z is no field"),
        ({"a__x__u": {"kind": "grid", "values": [1]}}, "a.x.u and a.x set the same field"),
        ({"a": {"kind": "grid", "values": [1]}}, "a and a.x set the same field"),
    ],
)
def test_fields_that_cannot_stand_there(axes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_order(space(a__x={"kind": "grid", "values": [1]}, **axes))


def test_a_condition_on_a_part_of_an_earlier_field_may_stand_there() -> None:
    grid = {"kind": "grid", "values": [1], "when": {"a.x.kind": 1}}
    check_order(space(a__x={"kind": "grid", "values": [1]}, a__xy=grid))


@pytest.mark.parametrize(
    ("axis", "sentence"),
    [
        ({"kind": "grid", "values": []}, "at least 1 item"),
        ({"kind": "uniform", "low": 1, "high": 1}, "low 1 must be less than high 1"),
        ({"kind": "loguniform", "low": 0, "high": 1}, "low 0 must be greater than 0"),
        ({"kind": "normal"}, "'normal'"),
        ({"kind": "scaled", "of": "a", "reference": 0, "value": 1}, "greater than 0"),
    ],
)
def test_axes_that_are_none(axis: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        space(a__x=axis)
