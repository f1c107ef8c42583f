"""Statistics against hand-computed and published numbers, and against scipy's own."""

import math

import numpy as np
import pandas as pd
import pytest

from reports.stats import (
    Estimate,
    compare_pairs,
    hedges_g_av,
    holm,
    judge,
    mean_interval,
    paired_difference,
    paired_p,
    slopes,
    t_interval,
)

# Student's sleep data (Biometrika 1908): R's t.test(extra ~ group, paired = TRUE) gives a mean difference
# of 1.58 hours, t = 4.0621, p = 0.002833, 95 percent interval 0.7001142 to 2.4598858.
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
SLEEP = [two - one for one, two in zip(DRUG_1, DRUG_2, strict=True)]
SKEWED = [1.0, 1.1, 1.2, 1.2, 1.3, 1.4, 1.4, 1.5, 1.7, 2.0, 3.0, 9.0]


# ---------------------------------------------------------------- intervals


def test_t_interval_and_p_reproduce_students_sleep_data() -> None:
    assert t_interval(SLEEP) == pytest.approx((0.7001142, 2.4598858), abs=1e-7)
    assert paired_p(SLEEP) == pytest.approx(0.002833, abs=5e-7)
    assert paired_p([-d for d in SLEEP]) == paired_p(SLEEP)


def test_interval_of_three_by_hand() -> None:
    # sd = 2, se = 2/√3, and the 97.5 % quantile of t with 2 degrees of freedom is 4.302653.
    found = mean_interval([60.0, 62.0, 64.0])
    half = 4.302653 * 2 / math.sqrt(3)
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((62, 62 - half, 62 + half), rel=1e-6)
    assert found.excludes(50)
    assert not found.excludes(60)


def test_two_values_are_given_themselves_and_no_claim() -> None:
    found = mean_interval([2.0, 1.0])
    assert found == Estimate(1.5, 1.0, 2.0, 2)
    assert (found.both, found.interval) == ((1.0, 2.0), None)
    assert (Estimate(1.5, 1.0, 2.0, 3).both, Estimate(1.5, 1.0, 2.0, 3).interval) == (None, (1.0, 2.0))
    assert not found.is_claim
    assert not found.excludes(0)
    assert compare_pairs([2.0, 8.0], [1.0, 1.0], ratio=True).estimate == Estimate(
        pytest.approx(4.0), pytest.approx(2.0), pytest.approx(8.0), 2
    )


def test_one_value_has_no_interval_and_excludes_nothing() -> None:
    assert mean_interval([3.0]) == Estimate(3.0, None, None, 1)
    assert not Estimate(3.0, None, None, 1).excludes(0)


def test_values_that_are_not_finite_are_left_out_and_not_counted() -> None:
    assert mean_interval([math.nan, 3.0, math.inf]) == Estimate(3.0, None, None, 1)
    assert mean_interval([math.nan]) is None
    assert mean_interval([]) is None


def test_equal_values_have_no_width() -> None:
    assert mean_interval([2.0] * 4) == Estimate(2.0, 2.0, 2.0, 4)


# ---------------------------------------------------------------- pairs


def test_pairs_are_by_seed_and_ignore_the_unpaired() -> None:
    found = paired_difference({0: 10.0, 1: 20.0, 7: 99.0}, {1: 19.0, 0: 8.0, 5: -50.0})
    assert found is not None
    assert (found.mean, found.n) == (1.5, 2)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_the_interval_of_a_difference_goes_with_its_p() -> None:
    """Twelve skewed differences whose t-test just misses 0.05."""
    differences = [0.0, 0.1, 0.0, 0.2, 0.1, 0.0, 0.1, 3.0, 0.2, 0.1, 0.0, 2.2]
    found = compare_pairs(differences, [0.0] * 12)
    assert found.estimate is not None
    low, high = t_interval(differences)
    assert (found.estimate.low, found.estimate.high) == (low, high)
    assert low < 0
    assert found.p > 0.05


def test_p_of_three_pairs_by_hand() -> None:
    # Mean 25/6, sd √(1/12), so t = 25; with two degrees of freedom p = 1 − t / √(t² + 2).
    assert paired_p([4.0, 4.5, 4.0]) == pytest.approx(1 - 25 / math.sqrt(627), rel=1e-9)


def test_p_without_spread_and_with_too_few() -> None:
    # All on one side, by the sign test: 2 of 2³ signs, 2 of 2⁶.
    assert paired_p([0.5, 0.5, 0.5]) == 0.25
    assert paired_p([-0.5] * 6) == 1 / 32
    # Thirteen more of ten thousand images each time, whatever the floats make of it.
    rounded = [100 * (n + 13) / 10_000 - 100 * n / 10_000 for n in (6_001, 7_417, 8_889)]
    assert len(set(rounded)) > 1
    assert paired_p(rounded) == 0.25
    found = compare_pairs(rounded, [0.0] * 3)
    assert found.estimate is not None
    assert (found.estimate.low, found.estimate.high) == (None, None)
    assert paired_p([0.0, 0.0, 0.0]) == 1.0
    assert math.isnan(paired_p([1.0, 1.1]))


def test_effect_size_by_hand() -> None:
    # Variances 13/12 and 1, so s = √(25/24); J(2) = Γ(1) / Γ(½) = 1/√π (0.5642 in Hedges' table).
    d_av = (25 / 6) / math.sqrt(25 / 24)
    assert hedges_g_av([64.0, 65.5, 66.0], [60.0, 61.0, 62.0]) == pytest.approx(d_av / math.sqrt(math.pi))
    assert math.isnan(hedges_g_av([1.0, 2.0], [0.0, 1.0]))
    assert math.isnan(hedges_g_av([1.0] * 3, [2.0] * 3))


def test_the_correction_of_the_effect_size_nears_hedges_approximation() -> None:
    a, b = [float(v) for v in range(10)], [float(v) - 1 for v in range(10)]
    d_av = 1 / math.sqrt(55 / 6)
    assert hedges_g_av(a, b) == pytest.approx(d_av * (1 - 3 / (4 * 9 - 1)), rel=1e-3)


def test_a_ratio_is_a_geometric_mean_with_the_interval_of_the_logarithms() -> None:
    found = compare_pairs([1.0, 4.0], [2.0, 2.0], ratio=True).estimate  # ½ and 2 cancel out
    assert found is not None
    assert found.mean == pytest.approx(1.0)
    assert found.low is not None
    assert found.high is not None
    assert found.low * found.high == pytest.approx(1.0)
    # Logs 1, 2 and 3: half the interval is 4.302653 / √3.
    three = compare_pairs([math.e, math.e**2, math.e**3], [1.0] * 3, ratio=True)
    assert three.estimate is not None
    assert three.estimate.high == pytest.approx(math.exp(2 + 4.302653 / math.sqrt(3)), rel=1e-6)
    assert three.p == pytest.approx(1 - math.sqrt(12 / 14), rel=1e-9)  # t = 2 / (1/√3)


def test_pairs_that_have_no_value_are_left_out() -> None:
    found = compare_pairs([1.0, math.nan, 3.0], [0.0, 1.0, 1.0])
    assert found.estimate is not None
    assert (found.estimate.mean, found.estimate.n) == (1.5, 2)
    assert compare_pairs([0.0], [1.0], ratio=True).estimate is None
    assert compare_pairs([], []).estimate is None


# ---------------------------------------------------------------- many comparisons


def test_holm_by_hand() -> None:
    # Sorted 0.005 × 4, 0.01 × 3, 0.03 × 2, and 0.04 × 1, which is raised to the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_stops_at_one_and_passes_over_what_is_no_comparison() -> None:
    found = holm([0.6, math.nan, 0.7])
    assert found[0] == found[2] == 1.0
    assert math.isnan(found[1])
    assert holm([0.04, math.nan])[0] == 0.04


def test_what_a_difference_may_be_called() -> None:
    three, two = Estimate(1.0, 0.5, 1.5, 3), Estimate(1.0, 0.5, 1.5, 2)
    assert judge(three, 0.049, 0.0) == "higher"
    assert judge(Estimate(0.9, 0.8, 1.0, 3), 0.049, 1.0) == "lower"
    assert judge(three, 0.05, 0.0) == "inconclusive"
    assert judge(two, 0.001, 0.0) == "too few seeds"
    assert judge(None, math.nan, 0.0) == "no pairs"


# ---------------------------------------------------------------- slopes


def test_slopes_by_group_against_polyfit() -> None:
    frame = pd.DataFrame({"x": [0.0, 1, 2, 0, 1, 3], "y": [1.0, 3, 2, 5, 1, 0], "g": list("aaabbb")})
    found = slopes(frame.x, frame.y, frame.g)
    assert found["a"] == pytest.approx(0.5)
    assert found["b"] == pytest.approx(np.polyfit([0, 1, 3], [5, 1, 0], 1)[0])


def test_a_slope_needs_two_places_and_every_value() -> None:
    x = pd.Series([0.0, 1, 2, 0, 1, 2, 5])
    y = pd.Series([1.0, math.nan, 3, 1, math.inf, 3, 1])
    assert slopes(x, y, pd.Series(list("aaabbbc"))).isna().all()
