"""Compares two speeds in interleaved pairs.

A machine's speed drifts with other work and heat. The drift cancels when a and b are measured close together,
many times, and the ratio is taken within each pair.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.progress import OnProgress

RESAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """Median of a / b over the pairs, with the bounds of its 95 % bootstrap interval."""

    median: float
    low: float
    high: float
    a_values: tuple[float, ...]
    b_values: tuple[float, ...]

    @property
    def a_median(self) -> float:
        return float(np.median(self.a_values))

    @property
    def b_median(self) -> float:
        return float(np.median(self.b_values))


def paired_ratio(
    a: Callable[[], float], b: Callable[[], float], rounds: int, on_progress: OnProgress | None = None
) -> Ratio:
    """Call both once a round, in random order, and return the ratio of their results.

    Each returns a positive number, such as images per second. One more round at the start warms up and is not
    counted. The order comes from a fixed seed: strict alternation could lock on to a rhythm of the machine.
    `on_progress` is called with the number of finished rounds, first with 0 before the warm-up.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be 1 or more, got {rounds}")
    if on_progress is not None:
        on_progress(0, rounds)
    a(), b()
    order = random.Random(0)
    a_values, b_values = [], []
    for done in range(1, rounds + 1):
        if order.random() < 0.5:
            a_values.append(a())
            b_values.append(b())
        else:
            b_values.append(b())
            a_values.append(a())
        if on_progress is not None:
            on_progress(done, rounds)
    return summarize(a_values, b_values)


def summarize(a_values: list[float], b_values: list[float]) -> Ratio:
    """Return the median ratio of paired values, with a percentile bootstrap interval over pairs."""
    ratios = np.divide(a_values, b_values)
    picks = np.random.default_rng(0).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=1), [2.5, 97.5])
    return Ratio(float(np.median(ratios)), float(low), float(high), tuple(a_values), tuple(b_values))
