"""A mean and how sure it is."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

CONFIDENCE = 0.95
# Equal values differ by so much, as a share, because numbers are rounded.
ROUNDING = 1e-9
# Below this many seeds an interval is shown, but nothing is called a difference.
MIN_SEEDS_FOR_A_CLAIM = 3
# From this many values on, intervals are BCa rather than Student's t; beyond the other, the two agree.
BCA_FROM = 10
_BCA_UNTIL = 1000
# The 2.5 % points of so many resamples are known to 0.2 % of probability.
_RESAMPLES = 4999
_SEED = 20220619


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` seeds and its interval; `low` and `high` are None where there is none: of one seed."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def is_claim(self) -> bool:
        """Whether there are seeds enough to call anything a difference."""
        return self.n >= MIN_SEEDS_FOR_A_CLAIM

    def excludes(self, value: float) -> bool:
        """Whether the interval lies wholly on one side of `value`. No interval excludes nothing."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high

    def exp(self) -> "Estimate":
        """The estimate of a mean logarithm as one of a geometric mean."""
        low, high = (None if bound is None else math.exp(bound) for bound in (self.low, self.high))
        return Estimate(math.exp(self.mean), low, high, self.n)


def mean_interval(values: Iterable[float], confidence: float = CONFIDENCE) -> Estimate | None:
    """Mean and interval of independent values; None when no finite value is given.

    Student's t below BCA_FROM values, BCa from there to a thousand. Equal values give no width.
    """
    finite = [v for v in values if math.isfinite(v)]
    is_bca = BCA_FROM <= len(finite) <= _BCA_UNTIL
    return _mean_with(bca_interval if is_bca else t_interval, finite, confidence)


def mean_t_interval(values: Iterable[float], confidence: float = CONFIDENCE) -> Estimate | None:
    """`mean_interval` with Student's t for any number of values: what a t-test of them goes with.

    Values that are all the same, and not zero, have no interval: see `paired_p`.
    """
    found = _mean_with(t_interval, [v for v in values if math.isfinite(v)], confidence)
    if found is None or found.high is None or found.high - found.mean > ROUNDING * abs(found.mean):
        return found
    return Estimate(found.mean, None, None, found.n) if found.mean else found


def _mean_with(
    interval: Callable[[Sequence[float], float], tuple[float, float]],
    values: Sequence[float],
    confidence: float,
) -> Estimate | None:
    n = len(values)
    if n == 0:
        return None
    mean = math.fsum(values) / n
    return Estimate(mean, *interval(values, confidence), n) if n > 1 else Estimate(mean, None, None, 1)


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Student's interval of the mean of two or more values."""
    n = len(values)
    mean = math.fsum(values) / n
    half = _t_quantile(confidence, n - 1) * math.sqrt(variance(values) / n)
    return mean - half, mean + half


def bca_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The bias-corrected and accelerated bootstrap interval of a mean; the same bounds for the same values.

    Efron, "Better bootstrap confidence intervals", JASA 82 (1987); z₀ from the share of resampled means below
    the mean, ties counting half, and the acceleration from the jackknife, which for a mean is
    Σ(x − x̄)³ / (6 (Σ(x − x̄)²)^1.5). scipy.stats.bootstrap gives the same, slower; a report takes thousands.
    """
    x = np.asarray(values, dtype=float)
    deviations = x - x.mean()
    spread = float(np.sum(deviations**2))
    if x.max() == x.min() or spread == 0:
        return float(x[0]), float(x[0])
    means = x[_resamples(len(x))].mean(axis=1)
    share_below = (np.count_nonzero(means < x.mean()) + np.count_nonzero(means <= x.mean())) / 2 / _RESAMPLES
    bias = special.ndtri(share_below)
    acceleration = float(np.sum(deviations**3)) / (6 * spread**1.5)
    tails = bias + special.ndtri([(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = np.quantile(means, special.ndtr(bias + tails / (1 - acceleration * tails)))
    return float(low), float(high)


def variance(values: Sequence[float]) -> float:
    """With n − 1 below; of two or more values."""
    mean = math.fsum(values) / len(values)
    return math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)


@lru_cache(maxsize=4)
def _resamples(n: int) -> NDArray[np.intp]:
    """Which of n values each resample draws. The cells of a report mostly have the same number of seeds."""
    return np.random.default_rng(_SEED).integers(n, size=(_RESAMPLES, n))


@cache
def _t_quantile(confidence: float, degrees: int) -> float:
    return float(special.stdtrit(degrees, (1 + confidence) / 2))
