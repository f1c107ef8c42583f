"""Comparing two speeds fairly: in pairs, interleaved, in one process.

A machine's speed drifts, by other work and by heat. Measuring a and b close together, many times over, and
taking the ratio within each pair, lets the drift cancel.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

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


def paired_ratio(a: Callable[[], float], b: Callable[[], float], rounds: int) -> Ratio:
    """Call both once a round, which first being drawn anew each time, and compare what they return.

    Each returns a positive number, such as images per second. A round before the first warms up and is not
    counted. The order is drawn from a fixed seed: alternating would meet every rhythm of the machine.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be 1 or more, got {rounds}")
    a(), b()
    order = random.Random(0)
    a_values, b_values = [], []
    for _ in range(rounds):
        if order.random() < 0.5:
            a_values.append(a())
            b_values.append(b())
        else:
            b_values.append(b())
            a_values.append(a())
    return summarize(a_values, b_values)


def summarize(a_values: list[float], b_values: list[float]) -> Ratio:
    """The ratio of paired values. The interval is the percentile bootstrap's, over pairs."""
    ratios = np.divide(a_values, b_values)
    picks = np.random.default_rng(0).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=1), [2.5, 97.5])
    return Ratio(float(np.median(ratios)), float(low), float(high), tuple(a_values), tuple(b_values))
