"""The statistics of a report, as pure functions of numbers.

**Which interval.** Below BCA_FROM values Student's t: with three to nine seeds a bootstrap has too few
different resamples, and its intervals are too short; t is exact for normal values. From BCA_FROM values on
the BCa bootstrap, which follows a skewed distribution (a seed that nearly diverged); t would stay symmetric.
Beyond a thousand values the two agree, and t is taken. Paired differences take t throughout, so that their
interval and the p of their test agree.

**Which test.** The paired t-test. An exact sign-flip test needs no normality, but its smallest two-sided p is
2 / 2ⁿ: with five seeds 0.0625, however large the difference. Many comparisons at once are adjusted by Holm.

**Few seeds.** One value has no interval. Below MIN_SEEDS_FOR_A_CLAIM an interval is shown, but there is no p
and nothing is called a difference.

Values that are not finite (a diverged loss, a metric that could not be taken) carry no information about a
mean: they are left out, and `n` says how many remain.
"""

from reports.stats.estimate import (
    BCA_FROM,
    CONFIDENCE,
    MIN_SEEDS_FOR_A_CLAIM,
    Estimate,
    bca_interval,
    mean_interval,
    mean_t_interval,
    t_interval,
)
from reports.stats.paired import (
    SIGNIFICANCE,
    Comparison,
    Outcome,
    compare_pairs,
    hedges_g_av,
    holm,
    judge,
    paired_difference,
    paired_p,
)
from reports.stats.slopes import slope, slopes

__all__ = [
    "BCA_FROM",
    "CONFIDENCE",
    "MIN_SEEDS_FOR_A_CLAIM",
    "SIGNIFICANCE",
    "Comparison",
    "Estimate",
    "Outcome",
    "bca_interval",
    "compare_pairs",
    "hedges_g_av",
    "holm",
    "judge",
    "mean_interval",
    "mean_t_interval",
    "paired_difference",
    "paired_p",
    "slope",
    "slopes",
    "t_interval",
]
