"""The statistics of a report, as pure functions of numbers.

**Which interval.** Student's t, for any number of values: exact for normal ones, and the one that p goes
with. The bias-corrected bootstrap (BCa) is worse with the numbers of seeds that people run: of ten normal
values its interval covers the mean in 91 % of samples where 95 % are meant, with an occasional bad seed in
fewer (`tests/reports/test_coverage.py` has the simulation). A mean of two values has no interval worth
printing: it would be thirteen times as wide as their distance. Both values are given instead.

**Which test.** The paired t-test. An exact sign-flip test needs no normality, but its smallest two-sided p is
2 / 2ⁿ: with five seeds 0.0625, however large the difference. Many comparisons at once are adjusted by Holm.

**Few seeds.** One value has no interval. Below MIN_SEEDS_FOR_A_CLAIM there is no p, and nothing is called a
difference.

Values that are not finite (a diverged loss, a metric that could not be taken) carry no information about a
mean: they are left out, and `n` says how many remain.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import pandas as pd
from scipy import special

CONFIDENCE = 0.95
# Equal values differ by so much, as a share, because numbers are rounded.
ROUNDING = 1e-9
# Below this many seeds nothing is called a difference, and a mean has no interval.
MIN_SEEDS_FOR_A_CLAIM = 3


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` seeds and its interval.

    `low` and `high` are the two values themselves when n is 2, and None where there is no interval.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def is_claim(self) -> bool:
        """Whether there are seeds enough to call anything a difference."""
        return self.n >= MIN_SEEDS_FOR_A_CLAIM

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its ends; None where there is none, as of two values."""
        if not self.is_claim or self.low is None or self.high is None:
            return None
        return self.low, self.high

    @property
    def both(self) -> tuple[float, float] | None:
        """The two values, the lower one first; None where n is not 2."""
        return None if self.n != 2 or self.low is None or self.high is None else (self.low, self.high)

    def excludes(self, value: float) -> bool:
        """Whether the interval lies wholly on one side of `value`. No interval excludes nothing."""
        return self.interval is not None and not self.interval[0] <= value <= self.interval[1]

    @property
    def negated(self) -> "Estimate":
        """The estimate of the opposite difference."""
        low, high = (None if bound is None else -bound for bound in (self.high, self.low))
        return Estimate(-self.mean, low, high, self.n)

    def exp(self) -> "Estimate":
        """The estimate of a mean logarithm as one of a geometric mean."""
        low, high = (None if bound is None else math.exp(bound) for bound in (self.low, self.high))
        return Estimate(math.exp(self.mean), low, high, self.n)


def mean_interval(values: Iterable[float], confidence: float = CONFIDENCE) -> Estimate | None:
    """Mean and Student's interval of independent values; None when no finite value is given.

    Of two values, both values instead of an interval. Equal values give no width.
    """
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return None
    n, mean = len(finite), math.fsum(finite) / len(finite)
    if n < MIN_SEEDS_FOR_A_CLAIM:
        return Estimate(mean, min(finite), max(finite), n) if n == 2 else Estimate(mean, None, None, n)
    return Estimate(mean, *t_interval(finite, confidence), n)


def difference_interval(values: Iterable[float], confidence: float = CONFIDENCE) -> Estimate | None:
    """`mean_interval` of differences, with no interval where the t-test is undefined.

    That is where all of three or more differences are the same and not zero: see `paired_p`.
    """
    found = mean_interval(values, confidence)
    if found is None or found.high is None or not found.is_claim or not found.mean:
        return found
    has_width = found.high - found.mean > ROUNDING * abs(found.mean)
    return found if has_width else Estimate(found.mean, None, None, found.n)


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Student's interval of the mean of two or more values."""
    n = len(values)
    mean = math.fsum(values) / n
    half = _t_quantile(confidence, n - 1) * math.sqrt(variance(values) / n)
    return mean - half, mean + half


def variance(values: Sequence[float]) -> float:
    """With n − 1 below; of two or more values."""
    mean = math.fsum(values) / len(values)
    return math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)


@cache
def _t_quantile(confidence: float, degrees: int) -> float:
    return float(special.stdtrit(degrees, (1 + confidence) / 2))


# An adjusted p below this is called a difference.
SIGNIFICANCE = 0.05

Outcome = Literal["higher", "lower", "inconclusive", "too few seeds", "no pairs"]


@dataclass(frozen=True)
class Comparison:
    """`estimate`: of the difference or the ratio. `effect_size` and `p`: NaN where they have no meaning."""

    estimate: Estimate | None
    effect_size: float
    p: float


def compare_pairs(ours: Sequence[float], baseline: Sequence[float], *, ratio: bool = False) -> Comparison:
    """Compare values that are paired by place: their differences, or with `ratio` their ratios.

    A ratio is a geometric mean, and interval, effect size and p are those of the logarithms, so that a factor
    and its inverse weigh the same. Pairs with a value that is not finite (for a ratio: or not positive) are
    left out.
    """
    pairs = [(a, b) for a, b in zip(ours, baseline, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if ratio:
        pairs = [(math.log(a), math.log(b)) for a, b in pairs if a > 0 and b > 0]
    differences = [a - b for a, b in pairs]
    estimate = difference_interval(differences)
    effect_size = hedges_g_av([a for a, _ in pairs], [b for _, b in pairs])
    return Comparison(estimate.exp() if ratio and estimate else estimate, effect_size, paired_p(differences))


def paired_difference(
    ours: Mapping[int, float], baseline: Mapping[int, float], confidence: float = CONFIDENCE
) -> Estimate | None:
    """Mean of `ours − baseline` over the seeds that both have, with Student's interval of the differences."""
    shared = ours.keys() & baseline.keys()
    return difference_interval((ours[seed] - baseline[seed] for seed in shared), confidence)


def paired_p(differences: Sequence[float]) -> float:
    """Two-sided p of Student's paired t-test that the mean difference is zero; NaN below three pairs.

    Differences that are all the same have no spread that t could go by, and of counts they may well be the
    same by chance: there is no interval, and p is the sign test's 2^(1 − n) when they are not zero, 1 when
    they are.
    """
    n = len(differences)
    if n < MIN_SEEDS_FOR_A_CLAIM:
        return math.nan
    mean, spread = math.fsum(differences) / n, math.sqrt(variance(differences))
    if spread <= ROUNDING * abs(mean):
        return 2.0 ** (1 - n) if mean else 1.0
    return float(2 * special.stdtr(n - 1, -abs(mean) / (spread / math.sqrt(n))))


def hedges_g_av(ours: Sequence[float], baseline: Sequence[float]) -> float:
    """Hedges' g_av of paired values: their mean difference in units of the seeds' own spread.

    d_av = (x̄ − ȳ) / √((s_x² + s_y²) / 2) (Cumming, Understanding the New Statistics, 2012, ch. 11), times the
    correction for few seeds J = Γ(m/2) / (√(m/2) Γ((m − 1)/2)), m = n − 1 (Hedges, J. Educ. Stat. 6, 1981).
    It measures the distance between the two among their seeds; d_z would repeat what t and p say. NaN below
    three pairs, or without any spread.
    """
    n = len(ours)
    if n < MIN_SEEDS_FOR_A_CLAIM:
        return math.nan
    spread = math.sqrt((variance(ours) + variance(baseline)) / 2)
    if spread == 0:
        return math.nan
    m = n - 1
    correction = math.exp(math.lgamma(m / 2) - math.lgamma((m - 1) / 2)) / math.sqrt(m / 2)
    return correction * (math.fsum(ours) - math.fsum(baseline)) / n / spread


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values (Scand. J. Statist. 6, 1979), in the order given.

    The k-th smallest of m is multiplied by m − k + 1, and none is below a smaller one. NaN is no comparison:
    it stays, and does not count.
    """
    order = sorted((i for i, p in enumerate(ps) if not math.isnan(p)), key=lambda i: ps[i])
    adjusted = [math.nan] * len(ps)
    largest = 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * ps[i]))
        adjusted[i] = largest
    return adjusted


def judge(estimate: Estimate | None, p_adjusted: float, neutral: float) -> Outcome:
    """What a difference (`neutral` 0) or a ratio (1) may be called."""
    if estimate is None:
        return "no pairs"
    if not estimate.is_claim:
        return "too few seeds"
    if p_adjusted < SIGNIFICANCE:
        return "higher" if estimate.mean > neutral else "lower"
    return "inconclusive"


# How surely an experiment with `seeds_to_tell` seeds is to find a difference.
POWER = 0.8
MAX_SEEDS_TOLD = 100


def seeds_to_tell(estimate: Estimate, comparisons: int) -> int | None:
    """How many paired seeds would tell a difference apart, if mean and spread stay as they were measured.

    The fewest with which the paired t-test at SIGNIFICANCE / `comparisons` finds it with probability POWER,
    by the noncentral t distribution; None without an interval, or beyond MAX_SEEDS_TOLD.
    """
    if estimate.interval is None or estimate.mean == 0:
        return None
    n = estimate.n
    half = (estimate.interval[1] - estimate.interval[0]) / 2
    spread = half * math.sqrt(n) / _t_quantile(CONFIDENCE, n - 1)
    if spread <= 0:
        return None
    effect, level = abs(estimate.mean) / spread, SIGNIFICANCE / max(1, comparisons)
    for seeds in range(n + 1, MAX_SEEDS_TOLD + 1):
        critical = float(special.stdtrit(seeds - 1, 1 - level / 2))
        if 1 - float(special.nctdtr(seeds - 1, effect * math.sqrt(seeds), critical)) >= POWER:
            return seeds
    return None


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of the least-squares line through (x, y); NaN where all x are the same."""
    x, y = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys)
    spread = math.fsum((one - x) ** 2 for one in xs)
    products = math.fsum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True))
    return products / spread if spread else math.nan


def slopes(x: pd.Series, y: pd.Series, by: pd.Series) -> pd.Series:
    """`slope` of each group of `by`, all at once. A y that is not finite makes its group's slope NaN."""
    finite = np.isfinite(y)
    y = y.where(finite)
    dx, dy = (values - values.groupby(by).transform("mean") for values in (x, y))
    sums = pd.DataFrame({"products": dx * dy, "spread": dx**2, "bad": ~finite}).groupby(by).sum()
    return sums["products"] / sums["spread"].where((sums["spread"] > 0) & (sums["bad"] == 0))
