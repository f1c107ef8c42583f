"""The estimation shift of a network: estimated against expected population statistics, layer by layer."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from suite.errors import UserError
from suite.metrics import CROSS, PROBED
from suite.shift.functional import UNNAMED, UNNAMED_WHY
from suite.shift.layers import (
    batch_norm_layers,
    check_visible,
    estimates,
    frozen_layers,
    num_channels,
    own_norms,
    preserved,
    unknown_statistics,
)
from suite.shift.moments import ChannelMoments
from suite.shift.passes import run_pass
from suite.shift.recorder import PAST_HOOKS, LayerInputs, Pass
from suite.shift.resample import GroupMoments, all_but_one, jackknife_errors

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

UNTRACKED = "keeps no running statistics"


@dataclass(frozen=True)
class Product:
    """A product of two halves of the batches, its standard error, and the degrees of freedom of the error.

    Both are NaN where a half has fewer than two groups of batches.
    """

    value: float
    error: float
    degrees: float

    @classmethod
    def of(cls, value: float, errors: Sequence[float], degrees: float) -> "Product":
        """Join the errors that each half gives, of so many degrees of freedom each (Satterthwaite 1946)."""
        squares = [error**2 for error in errors]
        spread = math.fsum(square**2 for square in squares) / degrees if degrees > 0 else math.nan
        joined = math.fsum(squares) ** 2 / spread if spread else len(errors) * degrees
        return cls(value, math.sqrt(math.fsum(squares)), joined)


@dataclass(frozen=True)
class LayerShift:
    """The shift of one BN layer. The signed differences are expected minus estimated, (C,), float64.

    `products`: by name of `CROSS`, how sure that value's signed square is. `num_groups`: of batches.
    """

    name: str
    num_channels: int
    esm_mu: float
    esm_sigma: float
    esm_mu_scaled: float
    esm_sigma_scaled: float
    esm_mu_cross: float = math.nan
    esm_sigma_cross: float = math.nan
    esm_mu_scaled_cross: float = math.nan
    esm_sigma_scaled_cross: float = math.nan
    products: Mapping[str, "Product"] = field(default_factory=dict)
    num_groups: int = 0
    mu_difference_C: Tensor | None = None
    sigma_difference_C: Tensor | None = None

    def interval(self, name: str) -> tuple[float, float]:
        """Return the 95 % interval of a value of `CROSS`, by Student's t on its signed square, or NaN."""
        product = self.products.get(name)
        if product is None or math.isnan(product.error):
            return math.nan, math.nan
        from scipy.special import stdtrit

        half = float(stdtrit(product.degrees, 0.975)) * product.error
        return signed_root(product.value - half), signed_root(product.value + half)


@dataclass(frozen=True)
class ShiftProfile:
    """The shift of every BN layer in forward order.

    `skipped` has the reason for each BN layer that is left out, `notes` warnings about the others.
    """

    layers: tuple[LayerShift, ...]
    num_images: int
    skipped: dict[str, str]
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def is_partial(self) -> bool:
        """Whether something that may have a shift was left out."""
        return any(why != UNTRACKED for why in self.skipped.values())

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
        """Return a row for each layer: depth (from 0), layer, num_channels, and the metrics of `PROBED`.

        The interval of a cross-half value is in the columns that end in _low and _high.
        """
        import pandas as pd

        columns = ["num_channels", *PROBED]
        ends = [f"{name}_{end}" for name in CROSS for end in ("low", "high")]
        rows = [
            [i, one.name, *(getattr(one, c) for c in columns), *(e for c in CROSS for e in one.interval(c))]
            for i, one in enumerate(self.layers)
        ]
        return pd.DataFrame(rows, columns=["depth", "layer", *columns, *ends])

    def plot(self) -> "alt.Chart":
        """Scaled ESM_μ and ESM_σ by depth."""
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
    differences. Detectors get their images as they take them: see `suite.shift.batches.images_of`. Layers
    that normalise with constants (FrozenBatchNorm2d) are measured as well, and so are calls of F.batch_norm
    in inference mode with buffers of the network's own, by the name of the buffers. The model's
    modes, hooks and buffers are restored. A network without BN gives a profile without layers. Raises
    UserError when there are no images, and when no layer of a network with running statistics can be seen.
    """
    if isinstance(model, GraphModule):  # an exported one has no inference mode
        check_visible(model, "probe")
    batch_norm_layers(model)  # refuses a scripted network and lazy layers
    with preserved(model):
        model.eval()
        seen = run_pass(model, batches, "probe", with_frozen=True, with_functional=True)
    return profile_of(model, seen, per_channel=per_channel)


def profile_of(model: nn.Module, seen: Pass, *, per_channel: bool = False) -> ShiftProfile:
    """Return the profile of a pass in inference mode, with frozen layers and functional ones.

    Raises UserError when no layer of a network with running statistics was seen.
    """
    check_visible(model, "probe", seen.functional)
    hidden = {name: why for name, why in unknown_statistics(model).items() if name not in seen.functional}
    hidden |= {UNNAMED: UNNAMED_WHY} if seen.num_unnamed else {}
    hidden = own_norms(model, seen.functional) | hidden
    layers = {**batch_norm_layers(model), **frozen_layers(model)}
    skipped = hidden | skipped_layers(layers, seen)
    layers |= seen.functional
    measured = [name for name in seen.inputs if name not in skipped]
    return ShiftProfile(
        tuple(_layer_shift(name, layers[name], seen.inputs[name], per_channel) for name in measured),
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
    untracked = {n: UNTRACKED for n, layer in layers.items() if layer.running_var is None}
    return untracked | skipped


def differences(layer: nn.Module, expected: ChannelMoments) -> tuple[Tensor, Tensor]:
    """Return μ̂ − μ̃ and σ̂ − σ̃, each (C,) float64."""
    mean_C, var_C = (estimate.double() for estimate in estimates(layer))
    return expected.mean_C - mean_C, expected.sigma_C - var_C.sqrt()


def unit(layer: nn.Module, expected: ChannelMoments) -> Tensor:
    """Return √(σ̂² + ε), (C,): ε keeps a channel that is constant in the data from dividing by zero."""
    return (expected.var_C + float(getattr(layer, "eps", 1e-5))).sqrt()


def signed_root(product: float) -> float:
    """Return √|x| with the sign of x."""
    return math.copysign(math.sqrt(abs(product)), product)


def signed_square(root: float) -> float:
    """Return x² with the sign of x."""
    return root * abs(root)


def _layer_shift(name: str, layer: nn.Module, inputs: LayerInputs, per_channel: bool) -> LayerShift:
    expected = inputs.whole
    mu_difference_C, sigma_difference_C = differences(layer, expected)
    unit_C = unit(layer, expected) * math.sqrt(num_channels(layer))
    mean_C, var_C = (estimate.double() for estimate in estimates(layer))
    products = _cross_products(inputs.by_group, mean_C, var_C.sqrt(), unit_C)
    return LayerShift(
        name,
        num_channels(layer),
        esm_mu=float(mu_difference_C.norm()),
        esm_sigma=float(sigma_difference_C.norm()),
        esm_mu_scaled=float((mu_difference_C / unit_C).norm()),
        esm_sigma_scaled=float((sigma_difference_C / unit_C).norm()),
        **{metric: signed_root(product.value) for metric, product in products.items()},
        products=products,
        num_groups=int((inputs.by_group.count_G > 0).sum()),
        mu_difference_C=mu_difference_C if per_channel else None,
        sigma_difference_C=sigma_difference_C if per_channel else None,
    )


def _cross_products(
    groups: GroupMoments, mean_C: Tensor, sigma_C: Tensor, unit_C: Tensor
) -> dict[str, Product]:
    """Return ⟨δ_even, δ_odd⟩ for each metric of `CROSS`.

    The two halves err independently, so the product's expectation has no square of an error in it.
    """
    num_groups = len(groups.count_G)
    is_even_G = (torch.arange(num_groups) % 2 == 0).double()
    halves = (is_even_G, 1 - is_even_G)
    degrees = min(int((groups.share_of(half_G) > 0).sum()) for half_G in halves) - 1
    weight_RG = torch.cat([torch.ones(1, num_groups, dtype=torch.float64), all_but_one(num_groups)])
    (mu_even_RC, sigma_even_RC), (mu_odd_RC, sigma_odd_RC) = (
        _errors(groups, weight_RG * half_G, mean_C, sigma_C) for half_G in halves
    )
    products_RC = {"mu": mu_even_RC * mu_odd_RC, "sigma": sigma_even_RC * sigma_odd_RC}
    names, products = [], []
    for name, product_RC in products_RC.items():
        for scale, each_RC in (("", product_RC), ("_scaled", product_RC / unit_C.square())):
            names.append(f"esm_{name}{scale}_cross")
            products.append(each_RC.sum(dim=1))
    product_RM = torch.stack(products, dim=1)
    errors = [
        jackknife_errors(product_RM[0], product_RM[1:], groups.share_of(half_G)).tolist() for half_G in halves
    ]
    values = zip(names, product_RM[0].tolist(), *errors, strict=True)
    return {name: Product.of(value, each, degrees) for name, value, *each in values}


def _errors(
    groups: GroupMoments, weight_RG: Tensor, mean_C: Tensor, sigma_C: Tensor
) -> tuple[Tensor, Tensor]:
    """Return μ̂ − μ̃ and σ̂ − σ̃, each (R, C), of the weighted groups."""
    mean_RC, var_RC = groups.weighted(weight_RG)
    return mean_RC - mean_C, var_RC.sqrt() - sigma_C
