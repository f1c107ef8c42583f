"""Simulated coverage of the intervals that reports print, on values as seeds give them."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from reports.stats import mean_interval

NUM_SAMPLES = 100_000
Samples = NDArray[np.float64]


def normal(rng: np.random.Generator, shape: tuple[int, int]) -> Samples:
    return rng.standard_normal(shape)


def skewed(rng: np.random.Generator, shape: tuple[int, int]) -> Samples:
    """Gamma of shape 4: a skewness of 1, with mean 0 and variance 1."""
    return (rng.gamma(4, 1, shape) - 4) / 2


def contaminated(rng: np.random.Generator, shape: tuple[int, int]) -> Samples:
    """Normal, but one seed in twenty is worse by three standard deviations. The mean is 0."""
    return rng.standard_normal(shape) - 3 * (rng.random(shape) < 0.05) + 0.15


KINDS = {function.__name__: function for function in (normal, skewed, contaminated)}


def t_covers(samples: Samples, confidence: float) -> float:
    """In what share of samples Student's interval of the mean includes 0."""
    n = samples.shape[1]
    half = scipy_stats.t.ppf((1 + confidence) / 2, n - 1) * samples.std(axis=1, ddof=1) / np.sqrt(n)
    return float((np.abs(samples.mean(axis=1)) <= half).mean())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [6, 12, 24])
@pytest.mark.parametrize("confidence", [0.90, 0.95, 0.982])
def test_students_interval_covers_as_often_as_it_says(kind: str, n: int, confidence: float) -> None:
    samples = KINDS[kind](np.random.default_rng(n), (NUM_SAMPLES, n))
    assert t_covers(samples, confidence) == pytest.approx(confidence, abs=0.02)
    # The simulation is vectorised: its intervals are those of the report.
    for row in samples[:20]:
        found = mean_interval(row.tolist(), confidence)
        assert found is not None
        assert (found.low <= 0 <= found.high) == (t_covers(row[None], confidence) == 1)


@pytest.mark.parametrize("kind", ["normal", "contaminated"])
def test_the_bootstrap_covers_less_often(kind: str) -> None:
    """Why no interval is BCa, although one bad seed skews the values."""
    samples = KINDS[kind](np.random.default_rng(0), (1500, 10))
    found = scipy_stats.bootstrap(
        (samples,), np.mean, axis=1, n_resamples=999, method="BCa", random_state=np.random.default_rng(1)
    ).confidence_interval
    bca = float(((found.low <= 0) & (found.high >= 0)).mean())
    assert bca < t_covers(samples, 0.95) - 0.02
