"""Splits a layer's shift into the error of its own running average and the part inherited from upstream.

*Own* comes from too few or too old batches. *Inherited* exists only because upstream layers normalise with
estimates. Norms do not add, so each part also has a signed share, negative where it points against the total:

    own · u  +  inherited · u  =  ‖total‖  =  ESM,   with u = total / ‖total‖

See `attribute` for the formulas and sources.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from suite.shift.layers import batch_norm_layers, estimates, estimating_layers, num_channels, preserved
from suite.shift.passes import LayerInputs, Pass, check_repeatable, run_pass
from suite.shift.precise import training_mode_pass
from suite.shift.probe import skipped_layers

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

Statistic = Literal["mu", "sigma"]


@dataclass(frozen=True)
class Parts:
    """The shift of one layer's μ or σ in its two parts. `own_C` and `inherited_C` are (C,), float64.

    `own` and `inherited` are the signed shares (both 0 if `esm` is 0); `cosine` is that between the two parts
    (NaN if one is 0). `*_error` is the standard error of `esm` or a share over
    the batches, estimated from the difference of their two halves; NaN with a single batch.
    """

    esm: float
    own: float
    inherited: float
    own_norm: float
    inherited_norm: float
    cosine: float
    esm_error: float
    own_error: float
    inherited_error: float
    own_C: Tensor
    inherited_C: Tensor


@dataclass(frozen=True)
class LayerAttribution:
    """The two parts of one BN layer's shift, for μ and for σ."""

    name: str
    num_channels: int
    mu: Parts
    sigma: Parts


@dataclass(frozen=True)
class Attribution:
    """The split shift of every BN layer in forward order; `skipped` and `notes` as in a ShiftProfile."""

    layers: tuple[LayerAttribution, ...]
    num_images: int
    skipped: dict[str, str]
    notes: dict[str, str]

    def to_frame(self) -> "pd.DataFrame":
        """Two rows for each layer (statistic mu and sigma): depth, layer, and the numbers of its Parts."""
        import pandas as pd

        columns = [name for name in Parts.__dataclass_fields__ if not name.endswith("_C")]
        rows = [
            [depth, layer.name, statistic, *(getattr(getattr(layer, statistic), c) for c in columns)]
            for depth, layer in enumerate(self.layers)
            for statistic in ("mu", "sigma")
        ]
        return pd.DataFrame(rows, columns=["depth", "layer", "statistic", *columns])

    def plot(self, statistic: Statistic = "sigma") -> "alt.LayerChart | alt.FacetChart":
        """The depth profile: signed shares stacked, and ESM as a line."""
        from suite.shift.charts import attribution_chart

        return attribution_chart(self.to_frame(), statistic)


def attribute(
    model: nn.Module, batches: Iterable[Any], *, training_batches: Iterable[Any] | None = None
) -> Attribution:
    """Split each BN layer's estimation shift into its own part and the inherited one, in two passes.

    For the channels (C,) of a layer's input (N, C, *), and likewise for σ:

        μ̂ − μ̃  =  (μᵗ − μ̃)  +  (μ̂ − μᵗ)
        total       own          inherited

    with μ̃ the running average, μᵗ the population's mean with upstream BN in training mode, which the running
    average estimates (PreciseBN; Wu and Johnson 2021), and μ̂ that in inference mode. The split is ours;
    ESM is Huang et al.'s (CVPR 2022).

    `batches` as in `probe`; they are read twice. By default both populations are taken over them, so that
    `inherited` comes from upstream layers alone, and the data's difference from training is in `own`.
    With `training_batches` the population with upstream in training mode is taken over those instead:
    `own` is then the running average's error alone, and the statistics' generalisation gap is in
    `inherited`. Its batch sizes matter: upstream normalises each batch with its own statistics. The model
    is restored. Raises UserError for a network without estimates, for batches that cannot be read twice or
    are empty, and for a batch with a single value per channel.
    """
    layers = estimating_layers(model, "attribute")
    if training_batches is None:
        check_repeatable(batches, "attribute")
        training_batches = batches
    population = training_mode_pass(model, training_batches, "attribute")
    with preserved(model):
        model.eval()
        expected = run_pass(model, batches, "attribute")
    return split_passes(model, layers, population, expected)


def split_passes(
    model: nn.Module, layers: Mapping[str, nn.Module], population: Pass, expected: Pass
) -> Attribution:
    """Return the split of `attribute` from its passes with BN layers in training and in inference mode."""
    skipped = skipped_layers(batch_norm_layers(model), population, expected)
    split = []
    for name in (n for n in expected.inputs if n not in skipped and n in layers):
        mean_C, var_C = (estimate.double() for estimate in estimates(layers[name]))
        inputs = (population.inputs[name], expected.inputs[name])
        mu = _split(mean_C, *(sample(i, "mean_C") for i in inputs))
        sigma = _split(var_C.sqrt(), *(sample(i, "sigma_C") for i in inputs))
        split.append(LayerAttribution(name, num_channels(layers[name]), mu, sigma))
    notes = expected.notes({layer.name: layers[layer.name] for layer in split})
    return Attribution(tuple(split), expected.num_images, skipped, notes)


def sample(inputs: LayerInputs, statistic: str) -> tuple[Tensor, Tensor]:
    """Return a statistic over all batches, and its sampling error; NaN when all values are in one half.

    Of the mean of two halves of shares p and q: Var(a₁ − a₂) = s² / (n p q), and Var(mean) = s² / n.
    One draw for each channel, not its expectation. Of σ to first order.
    """
    even, odd = inputs.halves
    share = even.count / inputs.whole.count
    scale = math.sqrt(share * (1 - share)) if 0 < share < 1 else math.nan
    return getattr(inputs.whole, statistic), (getattr(even, statistic) - getattr(odd, statistic)) * scale


def _split(estimated_C: Tensor, population: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> Parts:
    # The errors are half minus half: the estimates cancel, and in `inherited` also what both passes share.
    (population_C, population_error_C), (expected_C, expected_error_C) = population, expected
    own_C, inherited_C = population_C - estimated_C, expected_C - population_C
    total_C = own_C + inherited_C
    esm, own_norm, inherited_norm = (float(part_C.norm()) for part_C in (total_C, own_C, inherited_C))
    direction_C = total_C / esm if esm else torch.zeros_like(total_C)
    own, inherited = float(own_C @ direction_C), float(inherited_C @ direction_C)

    def error(error_C: Tensor, part_C: Tensor, share: float) -> float:
        """Return the error of part · u to first order: u · d(part) + (part − share u) · d(total) / ESM."""
        across_C = (part_C - share * direction_C) / esm if esm else torch.zeros_like(part_C)
        return float((error_C * direction_C + expected_error_C * across_C).norm())

    cosine = float(own_C @ inherited_C) / (own_norm * inherited_norm or math.nan)
    esm_error = error(expected_error_C, total_C, esm)
    own_error = error(population_error_C, own_C, own)
    inherited_error = error(expected_error_C - population_error_C, inherited_C, inherited)
    errors = (esm_error, own_error, inherited_error)
    return Parts(esm, own, inherited, own_norm, inherited_norm, cosine, *errors, own_C, inherited_C)
