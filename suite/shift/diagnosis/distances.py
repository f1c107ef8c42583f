"""Distances between estimates and statistics, in standard deviations of a layer's input, over its C channels.

    lag = rms_C √(((μᵗ − μ̃) / σ)² + ((σᵗ − σ̃) / σ)²)        σ² = σᵗ² + ε

with μᵗ, σᵗ the population's over the training batches, upstream in training mode. `noise` is the same of the
standard deviations of μ_B and σ_B between batches, or between their groups for ghost norms. A running
average with momentum m, over batches of the same weights, errs by noise √(m / (2 − m)), and the population
over B batches of G groups each by noise / √(B G).
"""

import math

import torch
from torch import Tensor

from suite.shift.diagnosis.observe import Observed, momentum_of
from suite.shift.precise import Statistics

FAR = 0.1  # standard deviations that could matter


def lag(observed: Observed, current: Statistics, name: str) -> float:
    """Return how far a layer's estimates are from the population, in standard deviations."""
    mean_C, var_C = (value_C.double() for value_C in current[name])
    exact_mean_C, exact_var_C = observed.exact[name]
    return rms(observed.unit_C(name), exact_mean_C - mean_C, exact_var_C.sqrt() - var_C.clamp(min=0).sqrt())


def noise(observed: Observed, name: str) -> float:
    """Return how much a layer's μ_B and σ_B vary between batches, in standard deviations."""
    return rms(observed.unit_C(name), *observed.watches[name].noise())


def sampling_error(observed: Observed, name: str, of_last_batch: float = 0.0) -> float:
    """Return the distance from the population that sampling alone gives to a layer's running average.

    `of_last_batch`: the variance that a last batch adds, in units of `noise` squared.
    """
    momentum, statistics = momentum_of(observed.layers[name]), observed.watches[name].statistics
    return noise(observed, name) * math.sqrt(momentum / (2 - momentum) + 1 / statistics + of_last_batch)


def lag_ratios(observed: Observed, current: Statistics, of_last_batch: float = 0.0) -> list[float]:
    """Return, layer by layer, the lag in units of its sampling error."""
    errors = {name: sampling_error(observed, name, of_last_batch) for name in observed.layers}
    return [lag(observed, current, name) / (error or math.inf) for name, error in errors.items()]


def rms(unit_C: Tensor, *parts_C: Tensor) -> float:
    squares_C = torch.stack([(part_C / unit_C).square() for part_C in parts_C]).sum(dim=0)
    return float(squares_C.mean().sqrt())
