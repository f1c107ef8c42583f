"""The estimation shift of a network: estimated against expected population statistics, layer by layer.

Source: Huang et al., CVPR 2022. The *estimated* statistics μ̃, σ̃² are the running averages that BN
normalises with in inference; the *expected* ones μ̂, σ̂² are those of the layer's input over the
evaluation set, with the whole network in inference mode (biased variance). Then

    ESM_μ = ‖μ̂ − μ̃‖₂        ESM_σ = ‖√σ̂² − √σ̃²‖₂

over a layer's d channels, divided by nothing. Layers differ in width and scale, so each has a
scale-free companion: the root mean square over the channels of the difference in units of √(σ̂² + ε).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from suite.errors import UserError
from suite.shift.layers import batch_norm_layers, input_moments, preserved
from suite.shift.moments import ChannelMoments


@dataclass(frozen=True)
class LayerShift:
    """The shift of one BN layer. The signed differences are expected minus estimated, (C,), float64."""

    name: str
    num_channels: int
    esm_mu: float
    esm_sigma: float
    esm_mu_scaled: float
    esm_sigma_scaled: float
    mu_difference_C: Tensor | None = None
    sigma_difference_C: Tensor | None = None


@dataclass(frozen=True)
class ShiftProfile:
    """The shift of every BN layer in forward order; `skipped` names the others, and why."""

    layers: tuple[LayerShift, ...]
    num_images: int
    skipped: dict[str, str]

    def values(self, metric: str) -> list[float]:
        """One number a layer: metric is esm_mu, esm_sigma, esm_mu_scaled or esm_sigma_scaled."""
        return [getattr(layer, metric) for layer in self.layers]

    def mean(self, metric: str) -> float:
        """Mean over the layers; NaN when there are none."""
        values = self.values(metric)
        return sum(values) / len(values) if values else math.nan


def probe(model: nn.Module, batches: Iterable[Any], *, per_channel: bool = False) -> ShiftProfile:
    """Measure the estimation shift of `model` in one inference pass over `batches`.

    `batches` yields image tensors, (images, labels) pairs or loader batches; under torch.distributed each
    rank gives its own share, and every rank gets the profile of all. `per_channel` keeps the signed
    differences. The model comes back as it was: modes, hooks, buffers. Raises UserError when there are
    no images.
    """
    layers = batch_norm_layers(model)
    with preserved(model):
        model.eval()
        moments, num_images = input_moments(model, batches)
    if num_images == 0:
        raise UserError("probe: no images; the batches are empty")
    skipped = {name: "not called in the forward pass" for name in layers if name not in moments}
    skipped |= {name: "keeps no running statistics" for name in moments if layers[name].running_var is None}
    measured = {n: m for n, m in moments.items() if n not in skipped}
    return ShiftProfile(
        tuple(_layer_shift(name, layers[name], m, per_channel) for name, m in measured.items()),
        num_images,
        skipped,
    )


def _layer_shift(name: str, layer: _BatchNorm, expected: ChannelMoments, per_channel: bool) -> LayerShift:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    sigma_C = expected.var_C.sqrt()
    mu_difference_C = expected.mean_C - layer.running_mean.double()
    sigma_difference_C = sigma_C - layer.running_var.double().sqrt()
    # ε keeps a channel that is constant in the data from dividing by zero, as it does in the layer itself.
    unit_C = (expected.var_C + layer.eps).sqrt()
    root_d = math.sqrt(layer.num_features)
    return LayerShift(
        name,
        layer.num_features,
        esm_mu=float(mu_difference_C.norm()),
        esm_sigma=float(sigma_difference_C.norm()),
        esm_mu_scaled=float((mu_difference_C / unit_C).norm()) / root_d,
        esm_sigma_scaled=float((sigma_difference_C / unit_C).norm()) / root_d,
        mu_difference_C=mu_difference_C if per_channel else None,
        sigma_difference_C=sigma_difference_C if per_channel else None,
    )
