"""One comparison of a claim: a mean over seeds against a bound, or two means against each other.

**The rule of all checks.** A check holds when the 95 % interval of the mean over seeds lies wholly on the
claimed side of the bound, and fails when it lies wholly on the other. It is inconclusive when the interval
includes the bound, below three seeds, and when a seed lacks the value. Values that are the same in all seeds
have no interval; the sign test against the bound decides then, which takes six of them. A claim holds when
all of its checks hold, fails when one fails, and is inconclusive otherwise, and whenever one of its runs did
not complete.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, assert_never

from reports.frames import Frames
from reports.numbers import Number, estimate_cell, number, plural
from reports.paper.published import Label
from reports.stats import CONFIDENCE, MIN_SEEDS_FOR_A_CLAIM, Estimate, difference_interval, paired_p

CheckOutcome = Literal["holds", "fails", "inconclusive"]
Side = Literal["above", "below", "disjoint"]
_WORDS: dict[CheckOutcome, str] = {
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

    Their mean is claimed to lie above or below `bound`, or `disjoint`: their interval below that of `others`.
    """

    measured: str
    unit: str
    values: tuple[float, ...]
    decimals: int
    comparison: Side = "above"
    bound: float = 0.0
    others: tuple[float, ...] = ()
    paper: PaperNumber | None = None

    @property
    def outcome(self) -> CheckOutcome:
        """What the rule of all checks makes of the values."""
        match self.comparison:
            case "disjoint":
                ours, theirs = _ends(self.values), _ends(self.others)
                if ours is None or theirs is None:
                    return "inconclusive"
                if ours[1] < theirs[0]:
                    return "holds"
                return "fails" if ours[0] > theirs[1] else "inconclusive"
            case "above" | "below":
                found = self.estimate
                if found is None or self.num_lacking:
                    return "inconclusive"
                # The interval's test: it excludes the bound where p is below this.
                if not paired_p([value - self.bound for value in self.values]) < 1 - CONFIDENCE:
                    return "inconclusive"
                return "holds" if (found.mean > self.bound) == (self.comparison == "above") else "fails"
        assert_never(self.comparison)

    @property
    def rule(self) -> str:
        """What the values have to be, such as `above 85`, in the unit of `ours`."""
        if self.comparison == "disjoint":
            return f"below {estimate_cell(difference_interval(self.others), len(self.others), self.decimals)}"
        places = 0 if self.bound == round(self.bound) else self.decimals
        return f"{self.comparison} {number(self.bound, places)}"

    @cached_property
    def estimate(self) -> Estimate | None:
        return difference_interval(self.values)

    @property
    def compared(self) -> tuple[tuple[float, ...], ...]:
        """All that is compared, each with a value for each seed."""
        return (self.values, self.others) if self.comparison == "disjoint" else (self.values,)

    @property
    def num_lacking(self) -> int:
        """How many values were not measured, or are not finite."""
        return sum(not math.isfinite(value) for values in self.compared for value in values)

    @property
    def ours(self) -> Number | str:
        """`90.1 ± 0.2 %`."""
        cell = estimate_cell(self.estimate, len(self.values), self.decimals)
        return replace(cell, unit=self.unit) if isinstance(cell, Number) else cell

    @property
    def sentence(self) -> str:
        """What was found, as a part of a sentence."""
        if self.num_lacking:
            wanted = sum(map(len, self.compared))
            return f"{self.measured}: {self.num_lacking} of {plural(wanted, 'value')} were not measured"
        if min(map(len, self.compared)) < MIN_SEEDS_FOR_A_CLAIM:
            seeds = " and ".join(str(len(values)) for values in self.compared)
            return f"{self.measured}: {self.ours}, of {seeds} seeds, where {MIN_SEEDS_FOR_A_CLAIM} are needed"
        same = " in every seed" if len(set(self.values)) == 1 else ""
        return f"{self.measured}: {self.ours}{same}, {_WORDS[self.outcome]}{self.rule}"


def _ends(values: Sequence[float]) -> tuple[float, float] | None:
    """The interval of a mean of three seeds or more, all of them measured; None for any other."""
    found = difference_interval(values)
    if found is None or found.n < len(values) or not found.is_claim:
        return None
    return None if found.low is None or found.high is None else (found.low, found.high)


# ---------------------------------------------------------------- rules


@dataclass(frozen=True)
class Measured:
    """A rule's values, one for each seed, in one `subset` of the runs, such as one size of training set.

    `others`: what a rule of disjoint intervals compares them with.
    """

    values: tuple[float, ...]
    subset: Mapping[str, object] = field(default_factory=dict)
    others: tuple[float, ...] = ()
    paper: PaperNumber | None = None


@dataclass(frozen=True)
class Rule:
    """A check as it was written down before any run.

    `measured`: what is measured, with the names of the subset in braces. `metric`: measures it in each
    subset. `comparison`: the claimed side of `margin`; `disjoint` has no margin.
    """

    measured: str
    unit: str
    decimals: int
    metric: Callable[[Frames], Iterable[Measured]]
    comparison: Side
    margin: float = 0.0

    def check(self, found: Measured) -> Check:
        """The check of one subset."""
        return Check(
            *(self.measured.format(**found.subset), self.unit, found.values, self.decimals),
            *(self.comparison, self.margin, found.others, found.paper),
        )


def evaluate(blocks: Iterable[Sequence[Rule]], frames: Frames) -> list[Check]:
    """Apply rules to runs. The rules of a block have the same subsets and are applied subset by subset."""
    return [
        rule.check(found)
        for block in blocks
        for subset in zip(*(rule.metric(frames) for rule in block), strict=True)
        for rule, found in zip(block, subset, strict=True)
    ]


def together(checks: Sequence[Check]) -> CheckOutcome:
    """What all checks of a claim come to; inconclusive without any check."""
    outcomes = {check.outcome for check in checks}
    if "fails" in outcomes:
        return "fails"
    return "holds" if outcomes == {"holds"} else "inconclusive"


def paired(ours: Mapping[int, float], others: Mapping[int, float]) -> tuple[float, ...]:
    """`ours − others` by seed; NaN where only one of them has the seed."""
    seeds = sorted(ours.keys() | others.keys())
    return tuple(ours.get(seed, math.nan) - others.get(seed, math.nan) for seed in seeds)
