"""One comparison of a claim: a mean over seeds against a bound, with a verdict at each look.

**The rule of all checks.** Seeds are added until a claim has a verdict or after the last look.
At a look a check

- *holds* when the mean lies on the claimed side of the bound and Student's two-sided p is below `P_PER_LOOK`;
- *fails* when the mean lies on the other side and p is below `P_PER_LOOK` divided by the claim's number of
  checks;
- is *absent* when it has a margin and the 95 % interval lies within that margin around the bound;
- is *inconclusive* otherwise, below three seeds, and when a seed lacks the value.

A claim holds when all of its checks hold, and fails when one of them fails. It is absent when every check
holds or is absent, and one is absent. Otherwise it is inconclusive, and so it is whenever a run did not
complete.

Looking three times at 0.018 gives a two-sided error of 4.6 % in total. For `absent`, the 90 % interval of a
single equivalence test would err in 9 % of cases over three looks; the 95 % interval errs in 5 %. A claim of
fifteen checks with the truth on all bounds fails in 2 %; where the values have a skewness of 1, which paired
differences seldom have, in 13 %. `tests/reports/claims/test_sequential.py` simulates these numbers.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, assert_never

from scipy import special

from reports.frames import Frames
from reports.numbers import Number, estimate_cell, number, plural, significant_decimals
from reports.paper.published import Label
from reports.stats import (
    CONFIDENCE,
    MIN_SEEDS_FOR_A_CLAIM,
    Estimate,
    difference_interval,
    paired_p,
    t_interval,
    variance,
)

Verdict = Literal["holds", "fails", "absent", "inconclusive"]
Side = Literal["above", "below"]
P_PER_LOOK = 0.018
# The power with which further seeds should settle a check, in `seeds_to_settle`.
POWER = 0.8
_WORDS: dict[Verdict, str] = {
    "holds": "",
    "fails": "not ",
    "inconclusive": "which may or may not be ",
}


@dataclass(frozen=True)
class PaperNumber:
    """What the paper measured, how far off its reading may be, and how it was read.

    `of`: what it was measured on, where that differs from ours and the check's text does not say so.
    """

    value: float
    tolerance: float
    label: Label
    of: str = ""


@dataclass(frozen=True)
class Check:
    """`values` of `measured`, one for each seed (NaN: not measured), in `unit`.

    Their mean is claimed to lie above or below `bound`. `margin`: how far from the bound it may be and still
    count as no difference; None where absence is not claimed about. `num_checks`: of the claim.
    """

    measured: str
    unit: str
    values: tuple[float, ...]
    decimals: int
    side: Side = "above"
    bound: float = 0.0
    margin: float | None = None
    num_checks: int = 1
    paper: PaperNumber | None = None

    @cached_property
    def outcome(self) -> Verdict:
        """What the rule of all checks makes of the values."""
        found = self.estimate
        if found is None or self.num_lacking or not found.is_claim:
            return "inconclusive"
        p = paired_p(self._from_bound)
        if self._is_claimed(found.mean):
            if p < P_PER_LOOK:
                return "holds"
        elif p < P_PER_LOOK / self.num_checks:
            return "fails"
        return "absent" if self._is_absent else "inconclusive"

    def _is_claimed(self, mean: float) -> bool:
        match self.side:
            case "above":
                return mean > self.bound
            case "below":
                return mean < self.bound
        assert_never(self.side)

    @property
    def _is_absent(self) -> bool:
        if self.margin is None:
            return False
        low, high = t_interval(self._from_bound, CONFIDENCE)
        return -self.margin < low and high < self.margin

    @property
    def _from_bound(self) -> list[float]:
        return [value - self.bound for value in self.values]

    @property
    def rule(self) -> str:
        """What the mean has to be, such as `above 20`, in the unit of `ours`, and the margin."""
        text = f"{self.side} {self._bound}"
        if self.margin is None:
            return text
        return f"{text}; margin {number(self.margin, significant_decimals(self.margin, 1))}"

    @property
    def _bound(self) -> str:
        return number(self.bound, 0 if self.bound == round(self.bound) else self.decimals)

    @cached_property
    def estimate(self) -> Estimate | None:
        return difference_interval(self.values)

    @property
    def num_lacking(self) -> int:
        """How many values were not measured, or are not finite."""
        return sum(not math.isfinite(value) for value in self.values)

    @property
    def ours(self) -> Number | str:
        """`90.1 ± 0.2 %`."""
        cell = estimate_cell(self.estimate, len(self.values), self.decimals)
        return replace(cell, unit=self.unit) if isinstance(cell, Number) else cell

    @property
    def sentence(self) -> str:
        """What was found, as a part of a sentence."""
        if self.num_lacking:
            wanted = plural(len(self.values), "value")
            return f"{self.measured}: {self.num_lacking} of {wanted} were not measured"
        if len(self.values) < MIN_SEEDS_FOR_A_CLAIM:
            few = plural(len(self.values), "seed")
            return f"{self.measured}: {self.ours}, of {few}, where {MIN_SEEDS_FOR_A_CLAIM} are needed"
        same = " in every seed" if len(set(self.values)) == 1 else ""
        more = self.seeds_to_settle if self.outcome == "inconclusive" else None
        needs = "" if more is None else f" (about {more} seeds would settle it)"
        if self.outcome == "absent" and self.margin is not None:
            within = f"{number(self.margin, significant_decimals(self.margin, 1))}"
            what = f"the {100 * CONFIDENCE:g} % interval lies within {within} of {self._bound}"
            return f"{self.measured}: {self.ours}{same}: {what}"
        return f"{self.measured}: {self.ours}{same}, {_WORDS[self.outcome]}{self.side} {self._bound}{needs}"

    @property
    def seeds_to_settle(self) -> int | None:
        """How many seeds a verdict takes with a probability of `POWER`, by normal approximation.

        Mean and deviation are taken as they are. The smaller number of: for a p as small as the rule asks on
        the mean's side, and, with a margin, for an interval within it. None where neither can be computed:
        too few values, no deviation, or a mean on the bound without a margin.
        """
        if self.num_lacking or len(self.values) < MIN_SEEDS_FOR_A_CLAIM:
            return None
        from_bound = self._from_bound
        deviation = math.sqrt(variance(from_bound))
        mean = math.fsum(from_bound) / len(from_bound)
        is_claimed = self._is_claimed(self.bound + mean)
        p = P_PER_LOOK if is_claimed else P_PER_LOOK / self.num_checks
        counts = [_seeds(deviation, abs(mean), p, POWER)] if mean else []
        if self.margin is not None and abs(mean) < self.margin:
            # Both ends must lie within the margin; the farther one hardly matters where the mean is off.
            power = (1 + POWER) / 2 if abs(mean) < 0.1 * self.margin else POWER
            counts.append(_seeds(deviation, self.margin - abs(mean), 1 - CONFIDENCE, power))
        return math.ceil(max(min(counts), len(self.values) + 1)) if counts and deviation else None


def _seeds(deviation: float, distance: float, p: float, power: float) -> float:
    """Return how many values show a distance with a two-sided p and this power."""
    quantiles = float(special.ndtri(1 - p / 2)) + float(special.ndtri(power))
    return (quantiles * deviation / distance) ** 2


# ---------------------------------------------------------------- rules


@dataclass(frozen=True)
class Measured:
    """A rule's values, one for each seed, in one `subset` of the runs, such as one size of training set."""

    values: tuple[float, ...]
    subset: Mapping[str, object] = field(default_factory=dict)
    paper: PaperNumber | None = None


@dataclass(frozen=True)
class Rule:
    """A check as it was registered before any run.

    `measured`: what is measured, with the names of the subset in braces. `metric`: measures it in each
    subset. `is_judged`: whether it decides the verdict; otherwise it is only shown beside those that do.
    """

    measured: str
    unit: str
    decimals: int
    metric: Callable[[Frames], Iterable[Measured]]
    side: Side = "above"
    bound: float = 0.0
    margin: float | None = None
    is_judged: bool = True


@dataclass(frozen=True)
class Applied:
    """What came of a claim's rules: the `checks` that decide, and `shown`, which decide nothing."""

    checks: list[Check]
    shown: list[Check]


def evaluate(rules: Sequence[Rule], frames: Frames) -> Applied:
    """Apply rules to runs, each to all of its subsets."""
    found = [(rule, measured) for rule in rules for measured in rule.metric(frames)]
    num_checks = sum(rule.is_judged for rule, _ in found)
    made: dict[bool, list[Check]] = {True: [], False: []}
    for rule, one in found:
        check = Check(
            rule.measured.format(**one.subset),
            rule.unit,
            one.values,
            rule.decimals,
            rule.side,
            rule.bound,
            rule.margin,
            num_checks,
            one.paper,
        )
        made[rule.is_judged].append(check)
    return Applied(made[True], made[False])


def together(checks: Sequence[Check]) -> Verdict:
    """What all checks of a claim come to; inconclusive without any check."""
    outcomes = {check.outcome for check in checks}
    if "fails" in outcomes:
        return "fails"
    if not outcomes or "inconclusive" in outcomes:
        return "inconclusive"
    return "absent" if "absent" in outcomes else "holds"


def paired(ours: Mapping[int, float], others: Mapping[int, float]) -> tuple[float, ...]:
    """`ours − others` by seed; NaN where only one of them has the seed."""
    seeds = sorted(ours.keys() | others.keys())
    return tuple(ours.get(seed, math.nan) - others.get(seed, math.nan) for seed in seeds)
