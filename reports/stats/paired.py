"""Two variants over the same seeds: the difference, how large, how sure, and what it may be called."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import special

from reports.stats.estimate import (
    CONFIDENCE,
    MIN_SEEDS_FOR_A_CLAIM,
    ROUNDING,
    Estimate,
    mean_t_interval,
    variance,
)

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

    The interval is Student's, whatever the number of pairs, so that it and p agree. A ratio is a
    geometric mean, and interval, effect size and p are those of the logarithms, so that a factor and its
    inverse weigh the same. Pairs with a value that is not finite (for a ratio: or not positive) are
    left out.
    """
    pairs = [(a, b) for a, b in zip(ours, baseline, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if ratio:
        pairs = [(math.log(a), math.log(b)) for a, b in pairs if a > 0 and b > 0]
    differences = [a - b for a, b in pairs]
    estimate = mean_t_interval(differences)
    effect_size = hedges_g_av([a for a, _ in pairs], [b for _, b in pairs])
    return Comparison(estimate.exp() if ratio and estimate else estimate, effect_size, paired_p(differences))


def paired_difference(
    ours: Mapping[int, float], baseline: Mapping[int, float], confidence: float = CONFIDENCE
) -> Estimate | None:
    """Mean of `ours − baseline` over the seeds that both have, with Student's interval of the differences."""
    shared = ours.keys() & baseline.keys()
    return mean_t_interval((ours[seed] - baseline[seed] for seed in shared), confidence)


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
