"""One comparison of a claim: a mean over seeds against a bound.

**The rule of all checks.** A check holds when the 95 % interval of the mean over seeds lies wholly on the
claimed side of the bound, and fails when it lies wholly on the other. It is inconclusive when the interval
includes the bound, below three seeds, and when a seed lacks the value. Values that are the same in all seeds
have no interval; the sign test against the bound decides then, which takes six of them. A claim holds when
all of its checks hold, fails when one fails, and is inconclusive otherwise, and whenever one of its runs did
not complete.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from reports.numbers import EMPTY, estimate_text, number, plural
from reports.paper.numbers import Label
from reports.stats import CONFIDENCE, MIN_SEEDS_FOR_A_CLAIM, Estimate, mean_t_interval, paired_p

Outcome = Literal["holds", "fails", "inconclusive"]


@dataclass(frozen=True)
class PaperNumber:
    """What the paper measured, how far off its reading may be, and how it was read.

    `of`: where it is of something else than ours, as far as the check's words do not say so.
    """

    value: float
    tolerance: float
    label: Label
    of: str = ""


@dataclass(frozen=True)
class Check:
    """`values` of `measured`, one for each seed (NaN: not measured), claimed to be on one side of `bound`."""

    measured: str
    unit: str
    values: tuple[float, ...]
    side: Literal["above", "below"]
    bound: float
    decimals: int
    paper: PaperNumber | None = None

    @cached_property
    def estimate(self) -> Estimate | None:
        return mean_t_interval(self.values)

    @property
    def compared(self) -> tuple[tuple[float, ...], ...]:
        """All that is compared, each with a value for each seed."""
        return (self.values,)

    @property
    def num_lacking(self) -> int:
        """Values that were not measured, or are not finite."""
        return sum(not math.isfinite(value) for values in self.compared for value in values)

    @property
    def num_seeds(self) -> int:
        """The fewest that stand behind what is compared."""
        return min(map(len, self.compared))

    @property
    def outcome(self) -> Outcome:
        found = self.estimate
        if found is None or self.num_lacking:
            return "inconclusive"
        # The interval's test: it excludes the bound where p is below this.
        if not paired_p([value - self.bound for value in self.values]) < 1 - CONFIDENCE:
            return "inconclusive"
        return "holds" if (found.mean > self.bound) == (self.side == "above") else "fails"

    @property
    def ours(self) -> str:
        """`90.1 ± 0.2 %`."""
        text = estimate_text(self.estimate, len(self.values), self.decimals)
        return text if text == EMPTY or not self.unit else f"{text} {self.unit}"

    @property
    def rule(self) -> str:
        """`above 85`, in the unit of `ours`."""
        places = 0 if self.bound == round(self.bound) else self.decimals
        return f"{self.side} {number(self.bound, places)}"

    @property
    def sentence(self) -> str:
        """What was found, as a part of a sentence."""
        if self.num_lacking:
            wanted = sum(map(len, self.compared))
            return f"{self.measured}: {self.num_lacking} of {plural(wanted, 'value')} were not measured"
        if self.num_seeds < MIN_SEEDS_FOR_A_CLAIM:
            seeds = " and ".join(str(len(values)) for values in self.compared)
            return f"{self.measured}: {self.ours}, of {seeds} seeds, where {MIN_SEEDS_FOR_A_CLAIM} are needed"
        same = " in every seed" if len(set(self.values)) == 1 else ""
        words = {"holds": "", "fails": "not ", "inconclusive": "which may or may not be "}
        return f"{self.measured}: {self.ours}{same}, {words[self.outcome]}{self.rule}"


@dataclass(frozen=True)
class Apart(Check):
    """Two intervals that do not overlap: that of `values` lies below that of `others`, or the claim fails."""

    others: tuple[float, ...] = ()

    @property
    def compared(self) -> tuple[tuple[float, ...], ...]:
        return (self.values, self.others)

    @property
    def outcome(self) -> Outcome:
        ours, theirs = _ends(self.values), _ends(self.others)
        if ours is None or theirs is None:
            return "inconclusive"
        if ours[1] < theirs[0]:
            return "holds"
        return "fails" if ours[0] > theirs[1] else "inconclusive"

    @property
    def rule(self) -> str:
        """`below 0.31 ± 0.02`."""
        return f"{self.side} {estimate_text(mean_t_interval(self.others), len(self.others), self.decimals)}"


def _ends(values: Sequence[float]) -> tuple[float, float] | None:
    """The interval of a mean that may be called something: of three seeds or more, all of them measured."""
    found = mean_t_interval(values)
    if (
        found is None
        or found.n < len(values)
        or not found.is_claim
        or found.low is None
        or found.high is None
    ):
        return None
    return found.low, found.high


def paired(ours: dict[int, float], others: dict[int, float]) -> tuple[float, ...]:
    """`ours − others` by seed; NaN where only one of them has the seed."""
    seeds = sorted(ours.keys() | others.keys())
    return tuple(ours.get(seed, math.nan) - others.get(seed, math.nan) for seed in seeds)


def together(checks: Sequence[Check]) -> Outcome:
    """What all checks of a claim come to. No check is no conclusion."""
    outcomes = {check.outcome for check in checks}
    if "fails" in outcomes:
        return "fails"
    return "holds" if outcomes == {"holds"} else "inconclusive"
