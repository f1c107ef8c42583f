"""Statistics against hand-computed and published numbers."""

import math

import pytest

from reports.stats import Estimate, mean_interval, paired_difference, paired_ratio

# Student's sleep data (Biometrika 1908): R's t.test(extra ~ group, paired = TRUE) gives a mean difference
# of 1.58 hours, 95 percent interval 0.7001142 to 2.4598858.
DRUG_1 = dict(enumerate([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]))
DRUG_2 = dict(enumerate([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]))


def test_paired_difference_reproduces_students_sleep_data() -> None:
    found = paired_difference(DRUG_2, DRUG_1)
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((1.58, 0.7001142, 2.4598858), abs=1e-7)
    assert found.n == 10
    assert found.excludes(0)
    assert not found.excludes(2)


def test_interval_of_three_by_hand() -> None:
    # sd = 2, se = 2/√3, and the 97.5 % quantile of t with 2 degrees of freedom is 4.302653.
    found = mean_interval([60.0, 62.0, 64.0])
    half = 4.302653 * 2 / math.sqrt(3)
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((62, 62 - half, 62 + half), rel=1e-6)


def test_interval_of_two_is_wide() -> None:
    found = mean_interval([1.0, 2.0])  # t with 1 degree of freedom: 12.7062; se = 0.5
    assert found is not None
    assert found.high == pytest.approx(1.5 + 6.3531, abs=1e-4)


def test_one_value_has_no_interval_and_excludes_nothing() -> None:
    assert mean_interval([3.0]) == Estimate(3.0, None, None, 1)
    assert not Estimate(3.0, None, None, 1).excludes(0)


def test_values_that_are_not_finite_are_left_out_and_not_counted() -> None:
    assert mean_interval([math.nan, 3.0, math.inf]) == Estimate(3.0, None, None, 1)
    assert mean_interval([math.nan]) is None
    assert mean_interval([]) is None


def test_pairs_are_by_seed_and_ignore_the_unpaired() -> None:
    found = paired_difference({0: 10.0, 1: 20.0, 7: 99.0}, {1: 19.0, 0: 8.0, 5: -50.0})
    assert found is not None
    assert (found.mean, found.n) == (1.5, 2)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_ratio_is_a_geometric_mean() -> None:
    found = paired_ratio({0: 1.0, 1: 4.0}, {0: 2.0, 1: 2.0})  # ½ and 2 cancel out
    assert found is not None
    assert found.mean == pytest.approx(1.0)
    assert found.low is not None
    assert found.high is not None
    assert found.low * found.high == pytest.approx(1.0)
    assert paired_ratio({0: 0.0}, {0: 1.0}) is None
