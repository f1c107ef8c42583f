"""The rule of all checks, against tests and intervals worked out by hand."""

import math

import pytest

from reports.claims.check import Check, Rule, Verdict, evaluate, paired, together
from reports.claims.check import Measured as Values


def check(
    values: tuple[float, ...],
    side: str = "above",
    bound: float = 0.0,
    margin: float | None = None,
    num_checks: int = 1,
) -> Check:
    return Check("slope", "a layer", values, 2, side, bound, margin, num_checks)  # type: ignore[arg-type]


# Mean 2, deviation 1, standard error 1 / √3. With two degrees of freedom p is 1 − t / √(t² + 2), where t is
# √3 times the distance: 0.018 at 4.2450, and 0.018 / 2 at 6.0445.
WIDE = (1.0, 2.0, 3.0)
# Mean 0, deviation 1, six values: Student's half width is 2.5706 · 1 / √6 = 1.0494.
SIX = (-1.0, 1.0, -1.0, 1.0, -(0.5**0.5), 0.5**0.5)


@pytest.mark.parametrize(
    ("values", "side", "bound", "expected"),
    [
        (WIDE, "above", -2.25, "holds"),
        (WIDE, "above", -2.24, "inconclusive"),
        (WIDE, "below", 6.25, "holds"),
        (WIDE, "below", 6.24, "inconclusive"),
        (WIDE, "above", 6.25, "fails"),
        (WIDE, "above", 6.24, "inconclusive"),
        ((9.0, 9.1), "above", 0, "inconclusive"),
        ((9.0, 9.1, math.nan, 9.0), "above", 0, "inconclusive"),
        ((), "above", 0, "inconclusive"),
        ((2.0, 2.0, 2.0), "above", 2.0, "inconclusive"),
    ],
)
def test_a_check_holds_or_fails_where_p_is_below_that_of_a_look(
    values: tuple[float, ...], side: str, bound: float, expected: Verdict
) -> None:
    assert check(values, side, bound).outcome == expected


def test_failing_is_adjusted_for_the_number_of_checks_and_holding_is_not() -> None:
    assert check(WIDE, "above", 6.25, num_checks=2).outcome == "inconclusive"
    assert check(WIDE, "above", 8.05, num_checks=2).outcome == "fails"
    assert check(WIDE, "above", 8.04, num_checks=2).outcome == "inconclusive"
    assert check(WIDE, "above", -2.25, num_checks=2).outcome == "holds"


@pytest.mark.parametrize(
    ("bound", "margin", "expected"),
    [
        (0.0, 1.06, "absent"),
        (0.0, 1.04, "inconclusive"),
        (0.5, 1.56, "absent"),  # on the side that is not claimed
        (0.5, 1.54, "inconclusive"),
        (-0.5, 1.56, "absent"),  # and on the claimed one
        (0.0, None, "inconclusive"),
    ],
)
def test_a_check_is_absent_where_the_interval_lies_within_the_margin(
    bound: float, margin: float | None, expected: Verdict
) -> None:
    assert check(SIX, bound=bound, margin=margin).outcome == expected


def test_what_is_certain_holds_although_it_is_small() -> None:
    assert check((0.1, 0.11, 0.1, 0.11, 0.1, 0.11), margin=5).outcome == "holds"


def test_what_all_checks_come_to() -> None:
    holds, fails = check((1.0, 1.0, 1.01)), check((-1.0, -1.0, -1.01))
    unclear, absent = check((-0.05, 0.1, 0.0)), check(SIX, margin=2)
    assert [one.outcome for one in (holds, fails, unclear, absent)] == [
        "holds", "fails", "inconclusive", "absent",
    ]  # fmt: skip
    assert together([holds, holds]) == "holds"
    assert together([holds, unclear]) == "inconclusive"
    assert together([absent, holds]) == "absent"
    assert together([absent, unclear]) == "inconclusive"
    assert together([unclear, fails, absent, holds]) == "fails"
    assert together([]) == "inconclusive"


def test_pairs_are_by_seed_and_a_lonely_seed_has_no_difference() -> None:
    first, second, third = paired({0: 5.0, 1: 7.0}, {1: 4.0, 0: 1.0, 2: 9.0})
    assert (first, second) == (4.0, 3.0)
    assert math.isnan(third)


def test_a_check_states_its_numbers_and_its_rule() -> None:
    assert check(WIDE, "above", 8).sentence == "slope: 2.0 ± 2.5 a layer, not above 8"
    assert check(SIX, margin=2).sentence.endswith(": the 95 % interval lies within 2 of 0")
    assert check(SIX, margin=0.5).rule == "above 0; margin 0.5"
    assert "1 of 3 values were not measured" in check((1.0, 2.0, math.nan)).sentence
    assert check((1.0, 1.0)).sentence == "slope: 1.00 and 1.00 a layer, of 2 seeds, where 3 are needed"


def test_an_open_check_says_how_many_seeds_would_settle_it() -> None:
    # (2.3656 + 0.8416)² · 1² / 1²: the quantiles of 0.991 and of the power of 80 %, at a distance of 1.
    assert check(WIDE, "above", 1.0).seeds_to_settle == 11
    assert check(WIDE, "above", 1.0).sentence.endswith("(about 11 seeds would settle it)")
    # On the side that is not claimed, of two checks: (2.6121 + 0.8416)², with the quantile of 0.9955.
    assert check(WIDE, "above", 3.0, num_checks=2).seeds_to_settle == 12
    # With a margin of 3 around the bound: (1.9600 + 0.8416)² / (3 − 1)², which is below what there is.
    assert check(WIDE, "above", 1.0, margin=3).seeds_to_settle == 4
    # A mean on its bound is settled by a margin alone, within which both ends must lie: (1.9600 + 1.2816)².
    assert check(SIX).seeds_to_settle is None
    assert check(SIX, margin=1).seeds_to_settle == 11
    assert check((1.0, math.nan, 2.0)).seeds_to_settle is None


def test_of_values_that_are_all_the_same_seven_decide() -> None:
    """One image of 500 more in each seed may be chance. The sign test's p is 2 / 2ⁿ: 1/32, 1/64."""
    six, seven = check((90.0,) * 6, "above", 85), check((90.0,) * 7, "above", 85)
    assert (six.outcome, seven.outcome) == ("inconclusive", "holds")
    assert six.sentence == "slope: 90.00 a layer in every seed, which may or may not be above 85"
    assert check((0.0,) * 7, "above", 25).outcome == "fails"
    assert check((85.0,) * 7, "above", 85).outcome == "inconclusive"
    assert check((85.0,) * 7, "above", 85, margin=1).outcome == "absent"


def test_rules_know_how_many_checks_they_are() -> None:
    """Two judged subsets of one rule and one of another make three; what is shown is none."""

    def metric(*subsets: int) -> list[Values]:
        return [Values((1.0, 2.0, 3.0), {"images": size}) for size in subsets]

    rules = [
        Rule("{images} images", "", 1, lambda _: metric(32, 64)),
        Rule("of {images}", "", 1, lambda _: metric(128), "below", 2.0),
        Rule("beside {images}", "", 1, lambda _: metric(256), is_judged=False),
    ]
    applied = evaluate(rules, None)  # type: ignore[arg-type]
    assert [one.measured for one in applied.checks] == ["32 images", "64 images", "of 128"]
    assert {one.num_checks for one in applied.checks} == {3}
    assert [one.measured for one in applied.shown] == ["beside 256"]
