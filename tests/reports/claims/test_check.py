"""The rule of all checks, against intervals worked out by hand."""

import math

import pytest

from reports.claims.check import Check, CheckOutcome, paired, together


def check(values: tuple[float, ...], side: str = "above", bound: float = 0.0) -> Check:
    return Check("slope", "a layer", values, 2, side, bound)  # type: ignore[arg-type]


# Mean 2, deviation 1: Student's half width is 4.3027 / √3 = 2.484, so the interval is [−0.484, 4.484].
WIDE = (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("values", "side", "bound", "expected"),
    [
        (WIDE, "above", -0.5, "holds"),
        (WIDE, "above", -0.4, "inconclusive"),
        (WIDE, "above", 4.4, "inconclusive"),
        (WIDE, "above", 4.5, "fails"),
        (WIDE, "below", 4.5, "holds"),
        (WIDE, "below", -0.5, "fails"),
        ((9.0, 9.1), "above", 0, "inconclusive"),
        ((9.0, 9.1, math.nan, 9.0), "above", 0, "inconclusive"),
        ((), "above", 0, "inconclusive"),
        ((2.0, 2.0, 2.0), "above", 2.0, "inconclusive"),
    ],
)
def test_a_check_holds_where_the_whole_interval_does(
    values: tuple[float, ...], side: str, bound: float, expected: CheckOutcome
) -> None:
    assert check(values, side, bound).outcome == expected


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ((5.0, 5.1, 5.0), "holds"),  # from 4.89 on
        ((4.5, 4.6, 4.5), "inconclusive"),  # from 4.39 on
        ((-1.0, -0.9, -1.0), "fails"),  # up to −0.82
        ((5.0, 5.1), "inconclusive"),
        ((5.0, 5.1, math.nan), "inconclusive"),
    ],
)
def test_disjoint_intervals_hold_fail_or_overlap(others: tuple[float, ...], expected: CheckOutcome) -> None:
    assert Check("slope", "", WIDE, 2, "disjoint", others=others).outcome == expected


def test_a_claim_holds_when_all_checks_do_and_fails_when_one_does() -> None:
    holds, fails, unclear = (check((v, v, v + 0.1)) for v in (1.0, -1.0, -0.05))
    assert [one.outcome for one in (holds, fails, unclear)] == ["holds", "fails", "inconclusive"]
    assert together([holds, holds]) == "holds"
    assert together([holds, unclear]) == "inconclusive"
    assert together([unclear, fails, holds]) == "fails"
    assert together([]) == "inconclusive"


def test_pairs_are_by_seed_and_a_lonely_seed_has_no_difference() -> None:
    first, second, third = paired({0: 5.0, 1: 7.0}, {1: 4.0, 0: 1.0, 2: 9.0})
    assert (first, second) == (4.0, 3.0)
    assert math.isnan(third)


def test_a_check_states_its_numbers_and_its_rule() -> None:
    assert (
        check(WIDE, "above", -0.4).sentence
        == "slope: 2.00 ± 2.48 a layer, which may or may not be above −0.40"
    )
    assert check(WIDE, "above", 5).sentence == "slope: 2.00 ± 2.48 a layer, not above 5"
    assert "1 of 3 values were not measured" in check((1.0, 2.0, math.nan)).sentence
    assert check((1.0, 1.0)).sentence == "slope: 1.00 and 1.00 a layer, of 2 seeds, where 3 are needed"


def test_of_values_that_are_all_the_same_six_decide() -> None:
    """One image of 500 more in each of three seeds may be chance. The sign test's p is 2 / 2ⁿ: 1/16, 1/32."""
    assert check((0.2, 0.2, 0.2), "above", 0).outcome == "inconclusive"
    five, six = check((90.0,) * 5, "above", 85), check((90.0,) * 6, "above", 85)
    assert (five.outcome, six.outcome) == ("inconclusive", "holds")
    assert five.sentence == "slope: 90.00 a layer in every seed, which may or may not be above 85"
    assert check((0.0,) * 5, "below", 25).outcome == "inconclusive"
    assert check((0.0,) * 6, "below", 25).outcome == "holds"
    assert check((0.0,) * 6, "above", 25).outcome == "fails"
    assert check((85.0,) * 6, "above", 85).outcome == "inconclusive"


def test_what_is_compared_with_too_few_or_unmeasured_seeds_says_so() -> None:
    few = Check("slope", "", WIDE, 2, "disjoint", others=(5.0, 5.1))
    assert few.sentence == "slope: 2.00 ± 2.48, of 3 and 2 seeds, where 3 are needed"
    lacking = Check("slope", "", WIDE, 2, "disjoint", others=(5.0, 5.1, math.nan))
    assert lacking.sentence == "slope: 1 of 6 values were not measured"
