"""PreciseBN: the population statistics of training batches, and their use in place of the estimates.

Source: Wu and Johnson 2021, as in fvcore. With the weights fixed and BN in training mode, the population
mean is the size-weighted mean of μ_B and the population variance E[μ_B² + σ_B²] − E[μ_B]². Upstream layers
normalise with batch statistics here, unlike in the probe's expected statistics.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from suite.shift.layers import batch_norm_layers, preserved, put_estimates
from suite.shift.passes import Pass, run_pass

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


@contextmanager
def with_statistics(model: nn.Module, statistics: Statistics) -> Iterator[None]:
    """Let BN layers normalise with the given statistics in inference mode; restore their own at the end.

    Raises UserError when a layer's float16 buffers cannot hold them.
    """
    layers = batch_norm_layers(model)
    with preserved(model):
        for name, (mean_C, var_C) in statistics.items():
            if layers[name].running_var is not None:
                put_estimates(name, layers[name], mean_C, var_C)
        yield
