"""The estimation shift of a network: estimated against expected population statistics, layer by layer."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from suite.errors import UserError
from suite.metrics import PROBED
from suite.shift.layers import (
    batch_norm_layers,
    check_visible,
    estimates,
    frozen_layers,
    num_channels,
    preserved,
    unknown_statistics,
)
from suite.shift.moments import ChannelMoments
from suite.shift.passes import PAST_HOOKS, Pass, run_pass

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd


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
    """The shift of every BN layer in forward order.

    `skipped` has the reason for each BN layer that is left out, `notes` warnings about the others.
    """

    layers: tuple[LayerShift, ...]
    num_images: int
    skipped: dict[str, str]
    notes: dict[str, str] = field(default_factory=dict)

    def values(self, metric: str) -> list[float]:
        """Return one number for each layer, of a metric of `suite.metrics.PROBED`. Raises UserError."""
        if metric not in PROBED:
            raise UserError(f"no metric {metric!r} is probed; probed are {', '.join(PROBED)}")
        return [getattr(layer, metric) for layer in self.layers]

    def mean(self, metric: str) -> float:
        """Return the mean over the layers; NaN when there are none."""
        values = self.values(metric)
        return sum(values) / len(values) if values else math.nan

    def to_frame(self) -> "pd.DataFrame":
        """Return a row for each layer: depth (from 0), layer, num_channels and the metrics of `PROBED`."""
        import pandas as pd

        columns = ["num_channels", *PROBED]
        rows = [[i, layer.name, *(getattr(layer, c) for c in columns)] for i, layer in enumerate(self.layers)]
        return pd.DataFrame(rows, columns=["depth", "layer", *columns])

    def plot(self) -> "alt.Chart":
        """ESM_μ and ESM_σ by depth."""
        from suite.shift.charts import profile_chart

        return profile_chart(self.to_frame())


def probe(model: nn.Module, batches: Iterable[Any], *, per_channel: bool = False) -> ShiftProfile:
    """Measure the estimation shift of `model` in one inference pass over `batches`.

    For each BN layer, with norms over its d channels (Huang et al., CVPR 2022):

        ESM_μ = ‖μ̂ − μ̃‖₂        ESM_σ = ‖√σ̂² − √σ̃²‖₂

    μ̃, σ̃² (d,) are its running averages; μ̂, σ̂² (d,) are mean and biased variance of its input (N, d, *),
    over all images and pixels, with the whole network in inference mode. The scaled norms, which do not
    depend on a layer's width and scale, are defined in `suite.metrics`.

    `batches` yields images (N, C, *), (images, labels) pairs or loader batches; under torch.distributed each
    rank gives its own share, and every rank gets the profile of all. `per_channel` keeps the signed
    differences. Layers that normalise with constants (FrozenBatchNorm2d) are measured as well. The model's
    modes, hooks and buffers are restored. A network without BN gives a profile without layers. Raises
    UserError when there are no images, and when no layer of a network with running statistics can be seen.
    """
    check_visible(model, "probe")
    layers = {**batch_norm_layers(model), **frozen_layers(model)}
    with preserved(model):
        model.eval()
        seen = run_pass(model, batches, "probe", with_frozen=True)
    skipped = unknown_statistics(model) | skipped_layers(layers, seen)
    measured = [name for name in seen.inputs if name not in skipped]
    return ShiftProfile(
        tuple(_layer_shift(name, layers[name], seen.inputs[name].whole, per_channel) for name in measured),
        seen.num_images,
        skipped,
        seen.notes({name: layers[name] for name in measured}),
    )


def skipped_layers(layers: Mapping[str, nn.Module], *passes: Pass) -> dict[str, str]:
    """Return the layers that cannot be measured from all of the passes, with the reasons."""
    unhooked = {name for one in passes for name in one.unhooked}
    skipped = {
        name: PAST_HOOKS if name in unhooked else "not called in the forward pass"
        for name in layers
        if any(name not in one.inputs for one in passes)
    }
    untracked = {n: "keeps no running statistics" for n, layer in layers.items() if layer.running_var is None}
    return untracked | skipped


def differences(layer: nn.Module, expected: ChannelMoments) -> tuple[Tensor, Tensor]:
    """Return μ̂ − μ̃ and σ̂ − σ̃, each (C,) float64."""
    mean_C, var_C = (estimate.double() for estimate in estimates(layer))
    return expected.mean_C - mean_C, expected.sigma_C - var_C.sqrt()


def _layer_shift(name: str, layer: nn.Module, expected: ChannelMoments, per_channel: bool) -> LayerShift:
    mu_difference_C, sigma_difference_C = differences(layer, expected)
    # ε keeps a channel that is constant in the data from dividing by zero, as it does in the layer itself.
    unit_C = (expected.var_C + float(getattr(layer, "eps", 1e-5))).sqrt()
    root_d = math.sqrt(num_channels(layer))
    return LayerShift(
        name,
        num_channels(layer),
        esm_mu=float(mu_difference_C.norm()),
        esm_sigma=float(sigma_difference_C.norm()),
        esm_mu_scaled=float((mu_difference_C / unit_C).norm()) / root_d,
        esm_sigma_scaled=float((sigma_difference_C / unit_C).norm()) / root_d,
        mu_difference_C=mu_difference_C if per_channel else None,
        sigma_difference_C=sigma_difference_C if per_channel else None,
    )
