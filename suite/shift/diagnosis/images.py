"""The two signatures that are between batches of images, and not in the estimates: see `suspects`."""

import math
from statistics import median
from typing import Any

from suite.shift.diagnosis.distances import FAR, noise, rms
from suite.shift.diagnosis.observe import Observed

CLEAR = 2.0  # times the sampling error
LARGE = 0.5  # standard deviations that are worth a warning in any case
FEW_VALUES = 20  # independent values, below which a mean varies by more than a fifth of σ
FEW_IMAGES = 4  # of which all values may be alike


def statistics_gap(observed: Observed) -> dict[str, Any] | None:
    """Return how far the populations of training and evaluation images are apart, if not by sampling alone.

    Both are in training mode, in standard deviations; the sampling error is the jackknife's, over groups of
    batches.
    """
    gaps, errors = [], []
    for name in observed.layers:
        training, evaluation = (
            seen.inputs[name] for seen in (observed.training_by_batch, observed.evaluation_by_batch)
        )
        differences = [
            getattr(evaluation.whole, statistic) - getattr(training.whole, statistic)
            for statistic in ("mean_C", "sigma_C")
        ]
        sampling = [*training.by_group.errors(), *evaluation.by_group.errors()]
        gaps.append(rms(observed.unit_C(name), *differences))
        errors.append(rms(observed.unit_C(name), *sampling))
    gap, ratio = median(gaps), median(g / e if e else 0.0 for g, e in zip(gaps, errors, strict=True))
    if gap < FAR or ratio < CLEAR:
        return None
    return {"gap": gap, "ratio": ratio, "is_large": gap > LARGE}


def few_samples(observed: Observed) -> dict[str, Any] | None:
    """Return how much the statistics of a batch vary, if that is as of few independent values or few images.

    For n independent normal values, μ_B varies by σ / √n and σ_B by σ / √(2n), and `noise` is √(1.5 / n).
    Pixels of one image are not independent. The noisiest layer counts.
    """
    largest = max(noise(observed, name) for name in observed.layers)
    samples = median(watch.samples_per_statistic for watch in observed.watches.values())
    effective = 1.5 / largest**2 if largest else math.inf
    if effective >= FEW_VALUES and samples > FEW_IMAGES:
        return None
    return {"samples": round(samples), "effective": effective, "noise": largest}
