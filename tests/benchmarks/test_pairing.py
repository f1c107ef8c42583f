"""Paired ratios against numbers worked out by hand."""

import pytest

from benchmarks.pairing import paired_ratio, summarize


def test_ratio_by_hand() -> None:
    result = summarize([2.0, 6.0, 12.0], [1.0, 2.0, 3.0])  # ratios 2, 3, 4
    assert result.median == 3
    assert (result.low, result.high) == (2, 4)
    assert (result.a_median, result.b_median) == (6, 2)


def test_equal_ratios_have_no_spread() -> None:
    result = summarize([3.0, 30.0, 300.0], [2.0, 20.0, 200.0])
    assert (result.low, result.median, result.high) == (1.5, 1.5, 1.5)


def test_drift_that_both_share_cancels() -> None:
    """The machine slows down from round to round; the ratio does not see it."""
    speeds = iter(speed for round_speed in range(100, 0, -1) for speed in (round_speed, round_speed))
    result = paired_ratio(lambda: 3.0 * next(speeds), lambda: 1.0 * next(speeds), rounds=20)
    assert (result.low, result.median, result.high) == (3, 3, 3)


def test_each_is_called_once_a_round_after_one_warm_up_and_the_order_varies() -> None:
    calls: list[str] = []

    def call(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    result = paired_ratio(lambda: call("a"), lambda: call("b"), rounds=12)
    assert len(result.a_values) == len(result.b_values) == 12
    assert calls.count("a") == calls.count("b") == 13
    rounds = {tuple(calls[i : i + 2]) for i in range(2, 26, 2)}
    assert rounds == {("a", "b"), ("b", "a")}
    assert min(result.a_values) > 2  # the warm-up is not among them


def test_how_far_it_is_is_told_before_the_warm_up_and_after_each_round() -> None:
    heard: list[object] = []
    paired_ratio(lambda: heard.append("a") or 1.0, lambda: 1.0, 2, lambda *said: heard.append(said))
    assert heard == [(0, 2), "a", "a", (1, 2), "a", (2, 2)]


def test_no_rounds() -> None:
    with pytest.raises(ValueError, match="rounds must be 1 or more, got 0"):
        paired_ratio(lambda: 1.0, lambda: 1.0, rounds=0)
