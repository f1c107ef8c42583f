"""Better estimates without training, and their use in place of a network's own.

PreciseBN (Wu and Johnson 2021, as in fvcore): with the weights fixed and BN in training mode, the population
mean is the size-weighted mean of μ_B and the population variance E[μ_B² + σ_B²] − E[μ_B]². Upstream layers
normalise with batch statistics here, unlike in the probe's expected statistics.

Bias-corrected estimates: after t batches the running averages still hold (1 − m)ᵗ of their first values,
mean 0 and variance 1. Without that part, and divided by what remains, they average over the batches alone,
as the moments of Adam do (Kingma and Ba 2015).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from suite.shift.layers import (
    batch_norm_layers,
    estimates,
    frozen_layers,
    is_bias_corrected,
    preserved,
    put_estimates,
)
from suite.shift.passes import run_pass
from suite.shift.recorder import Pass

Statistics = Mapping[str, tuple[Tensor, Tensor]]


def precise_statistics(model: nn.Module, batches: Iterable[Any]) -> Statistics:
    """Return mean and biased variance, each (C,) float64, of every called BN layer, by module name.

    Only the BN layers are in training mode: dropout would add noise. The model is restored. Batches are as
    in `probe`. Raises UserError when there are none, and for one with a single value per channel.
    """
    return statistics_of(training_mode_pass(model, batches, "PreciseBN"))


def training_mode_pass(model: nn.Module, batches: Iterable[Any], purpose: str) -> Pass:
    """Run a pass with the BN layers alone in training mode. The model is restored."""
    with preserved(model):
        model.eval()
        for layer in batch_norm_layers(model).values():
            layer.train()
        return run_pass(model, batches, purpose)


def statistics_of(seen: Pass) -> Statistics:
    """Return mean and biased variance, each (C,) float64, of every layer that the pass called."""
    return {name: (inputs.whole.mean_C, inputs.whole.var_C) for name, inputs in seen.inputs.items()}


def bias_corrected_statistics(model: nn.Module) -> Statistics:
    """Return the estimates without what their first values still contribute, each (C,) float64, by layer.

        μ̃ / (1 − k)        (σ̃² − k) / (1 − k)        k = (1 − m)ᵗ

    for momentum m and t = `num_batches_tracked`. Layers for which there is nothing to correct keep their
    estimates: those without a batch, with a cumulative average (momentum None), with a momentum of 0 or 1,
    and those that correct their estimates themselves. Assumes that the averages began at 0 and 1 and that t
    counts all of their batches.
    """
    found = {}
    for name, layer in batch_norm_layers(model).items():
        if layer.running_var is None:
            continue
        mean_C, var_C = (estimate.double() for estimate in estimates(layer))
        kept = initial_share(layer)
        found[name] = without_initial(mean_C, var_C, kept) if 0 < kept < 1 else (mean_C, var_C)
    return found


def without_initial(mean_C: Tensor, var_C: Tensor, kept: float) -> tuple[Tensor, Tensor]:
    """Return running averages, each (C,), without the share `kept` < 1 of their first values 0 and 1."""
    return mean_C / (1 - kept), ((var_C - kept) / (1 - kept)).clamp(min=0)


def initial_share(layer: _BatchNorm) -> float:
    """Return (1 − m)ᵗ, the share of the first values 0 and 1 in a layer's running averages; 1 before a batch.

    A cumulative average (momentum None) has none of them after its first batch, nor has a corrected one.
    """
    num_batches = int(layer.num_batches_tracked) if layer.num_batches_tracked is not None else 0
    if num_batches == 0:
        return 1.0
    return 0.0 if layer.momentum is None or is_bias_corrected(layer) else (1 - layer.momentum) ** num_batches


@contextmanager
def with_statistics(model: nn.Module, statistics: Statistics) -> Iterator[None]:
    """Let BN layers normalise with the given statistics in inference mode; restore their own at the end.

    Layers that normalise with constants (FrozenBatchNorm2d) take them too. Raises UserError when a layer's
    float16 buffers cannot hold them.
    """
    layers: dict[str, nn.Module] = {**batch_norm_layers(model), **frozen_layers(model)}
    with preserved(model):
        for name, (mean_C, var_C) in statistics.items():
            if layers[name].running_var is not None:
                put_estimates(name, layers[name], mean_C, var_C)
        yield
