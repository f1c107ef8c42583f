"""The statistics of a report, as pure functions of numbers.

Values that are not finite (a diverged loss, a metric that could not be taken) carry no information
about a mean: they are left out, and `n` says how many remain.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scipy import stats as scipy_stats

CONFIDENCE = 0.95
# Below this many seeds an interval is shown, but nothing is called a difference.
MIN_SEEDS_FOR_A_CLAIM = 3


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` seeds and its interval; `low` and `high` are None when one seed gives none."""

    mean: float
    low: float | None
    high: float | None
    n: int

    def excludes(self, value: float) -> bool:
        """Whether the interval lies wholly on one side of `value`. No interval excludes nothing."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high


def mean_interval(values: Iterable[float], confidence: float = CONFIDENCE) -> Estimate | None:
    """Mean and Student's t interval of independent values; None when no finite value is given."""
    finite = [v for v in values if math.isfinite(v)]
    n = len(finite)
    if n == 0:
        return None
    mean = math.fsum(finite) / n
    if n == 1:
        return Estimate(mean, None, None, 1)
    variance = math.fsum((v - mean) ** 2 for v in finite) / (n - 1)
    half = float(scipy_stats.t.ppf((1 + confidence) / 2, n - 1)) * math.sqrt(variance / n)
    return Estimate(mean, mean - half, mean + half, n)


def paired_difference(
    ours: Mapping[int, float], baseline: Mapping[int, float], confidence: float = CONFIDENCE
) -> Estimate | None:
    """Mean of `ours − baseline` over the seeds that both have, with the interval of the differences."""
    return mean_interval((ours[seed] - baseline[seed] for seed in ours.keys() & baseline.keys()), confidence)


def paired_ratio(
    ours: Mapping[int, float], baseline: Mapping[int, float], confidence: float = CONFIDENCE
) -> Estimate | None:
    """Geometric mean of `ours / baseline` over the seeds that both have.

    The interval is that of the mean log ratio, so that a factor and its inverse weigh the same. Pairs
    without two positive values have no log ratio and are left out.
    """
    logs = paired_difference(_logarithms(ours), _logarithms(baseline), confidence)
    if logs is None:
        return None
    low, high = (None if bound is None else math.exp(bound) for bound in (logs.low, logs.high))
    return Estimate(math.exp(logs.mean), low, high, logs.n)


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of the least-squares line through (x, y); NaN where all x are the same."""
    x, y = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys)
    spread = math.fsum((one - x) ** 2 for one in xs)
    products = math.fsum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True))
    return products / spread if spread else math.nan


def _logarithms(values: Mapping[int, float]) -> dict[int, float]:
    return {seed: math.log(value) for seed, value in values.items() if value > 0 and math.isfinite(value)}
