"""What charts show of seeds, against hand-computed values and the scalar statistics."""

import math

import pandas as pd
import pytest

from reports.seed_statistics import extremes, mean_intervals, not_surpassed, thinned
from reports.stats import mean_interval


def test_intervals_of_groups_are_those_of_the_groups_one_by_one() -> None:
    values = {"BN": [1.0, 2.0, 4.0], "GN8": [5.0, 5.5], "XBN": [7.0]}
    frame = pd.DataFrame([(norm, v) for norm, row in values.items() for v in row], columns=["norm", "value"])
    found = mean_intervals(frame, ["norm"]).set_index("norm")
    for norm, row in values.items():
        expected = mean_interval(row)
        assert expected is not None
        assert found.seeds[norm] == expected.n
        assert found.value[norm] == pytest.approx(expected.mean)
        if expected.low is None:
            assert math.isnan(found.low[norm])
            assert math.isnan(found.high[norm])
        else:
            assert (found.low[norm], found.high[norm]) == pytest.approx((expected.low, expected.high))
    assert (found.low["GN8"], found.high["GN8"]) == (5.0, 5.5)
    # By hand: mean 7/3, sd √(7/3), t(0.975, 2) = 4.302653.
    assert found.high["BN"] == pytest.approx(7 / 3 + 4.302653 * math.sqrt(7 / 3) / math.sqrt(3))


def test_extremes() -> None:
    frame = pd.DataFrame({"norm": ["BN", "BN", "GN8"], "value": [1.0, 4.0, 2.0]})
    found = extremes(frame, ["norm"]).set_index("norm")
    assert found.loc["BN"].to_dict() == {"value": 2.5, "low": 1.0, "high": 4.0, "seeds": 2}
    assert found.loc["GN8"].to_dict() == {"value": 2.0, "low": 2.0, "high": 2.0, "seeds": 1}


def test_the_pareto_front_is_what_nothing_surpasses_with_intervals_apart() -> None:
    # Half an interval is 5 images/s and one point of top-1.
    speed = {"fast": 100.0, "dominated": 80.0, "good": 90.0, "near good": 84.0, "best": 10.0, "slower": 70.0}
    top1 = {"fast": 60.0, "dominated": 65.0, "good": 70.0, "near good": 67.0, "best": 80.0, "slower": 68.5}
    cells = pd.DataFrame({"name": list(speed), "speed": speed.values(), "top1": top1.values()})
    cells = cells.assign(speed_low=cells.speed - 5, speed_high=cells.speed + 5)
    cells = cells.assign(top1_low=cells.top1 - 1, top1_high=cells.top1 + 1)
    # 80 + 5 meets 90 − 5, 84 + 5 goes beyond it, and 68.5 + 1 beyond 70 − 1.
    found = not_surpassed(cells, "speed", "top1").name.tolist()
    assert found == ["fast", "dominated", "good", "near good", "best", "slower"]
    apart = cells.assign(speed_high=cells.speed_high - 0.01)
    assert "dominated" not in not_surpassed(apart, "speed", "top1").name.tolist()
    # A cell without an interval is not on the front, and surpasses none.
    single = apart.assign(top1_low=apart.top1_low.where(apart.name != "good"))
    assert not_surpassed(single, "speed", "top1").name.tolist() == [
        "fast",
        "dominated",
        "near good",
        "best",
        "slower",
    ]


def test_thinning_keeps_both_ends() -> None:
    assert thinned([3, 1, 2], 3) == [1, 2, 3]
    assert thinned(range(1, 101), 4) == [1, 34, 67, 100]
    assert thinned([1, 2, 3, 4, 5], 2) == [1, 5]
