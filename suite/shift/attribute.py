"""Splits a layer's shift into the error of its own running average and the part inherited from upstream.

*Own* comes from too few or too old batches. *Inherited* exists only because upstream layers normalise with
estimates. Norms do not add, so each part also has a signed share, negative where it points against the total:

    own · u  +  inherited · u  =  ‖total‖  =  ESM,   with u = total / ‖total‖

The parts' errors come from leaving out groups of batches, since the channels of a layer err together. See
`attribute` for the formulas and sources.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from suite.shift.layers import batch_norm_layers, estimates, estimating_layers, num_channels, preserved
from suite.shift.passes import check_repeatable, run_pass
from suite.shift.precise import training_mode_pass
from suite.shift.probe import skipped_layers, unit
from suite.shift.recorder import LayerInputs, Pass
from suite.shift.resample import GroupMoments, all_but_one, jackknife_error

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

Statistic = Literal["mu", "sigma"]


@dataclass(frozen=True)
class Parts:
    """The shift of one layer's μ or σ in its two parts. `own_C` and `inherited_C` are (C,), float64.

    `own` and `inherited` are the signed shares (both 0 if `esm` is 0); `cosine` is that between the two parts
    (NaN if one is 0). `*_error` is the standard error of `esm` or a share by the jackknife over groups of
    batches; NaN with a single batch.
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
    model: nn.Module,
    batches: Iterable[Any],
    *,
    training_batches: Iterable[Any] | None = None,
    scaled: bool = True,
) -> Attribution:
    """Split each BN layer's estimation shift into its own part and the inherited one, in two passes.

    For the channels (C,) of a layer's input (N, C, *), and likewise for σ:

        μ̂ − μ̃  =  (μᵗ − μ̃)  +  (μ̂ − μᵗ)
        total       own          inherited

    with μ̃ the running average, μᵗ the population's mean with upstream BN in training mode, which the running
    average estimates (PreciseBN; Wu and Johnson 2021), and μ̂ that in inference mode. The split is ours;
    ESM is Huang et al.'s (CVPR 2022). With `scaled` each channel is in units of √(σ̂² + ε) and divided by √C,
    so that layers of other widths and scales compare; without, the norms are the paper's.

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
    is_same = training_batches is batches
    population = training_mode_pass(model, training_batches, "attribute")
    with preserved(model):
        model.eval()
        expected = run_pass(model, batches, "attribute")
    return split_passes(model, layers, population, expected, is_same=is_same, scaled=scaled)


def split_passes(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    population: Pass,
    expected: Pass,
    *,
    is_same: bool,
    scaled: bool = True,
) -> Attribution:
    """Return the split of `attribute` from its passes with BN layers in training and in inference mode.

    `is_same`: both passes read the same batches, in the same order.
    """
    skipped = skipped_layers(batch_norm_layers(model), population, expected)
    split = []
    for name in (n for n in expected.inputs if n not in skipped and n in layers):
        layer, inputs = layers[name], (population.inputs[name], expected.inputs[name])
        unit_C = unit(layer, inputs[1].whole) * math.sqrt(num_channels(layer)) if scaled else None
        mean_C, var_C = (estimate.double() for estimate in estimates(layer))
        mu, sigma = _split((mean_C, var_C.sqrt()), inputs, unit_C, is_same)
        split.append(LayerAttribution(name, num_channels(layer), mu, sigma))
    notes = expected.notes({layer.name: layers[layer.name] for layer in split})
    return Attribution(tuple(split), expected.num_images, skipped, notes)


def _split(
    estimated: tuple[Tensor, Tensor],
    inputs: tuple[LayerInputs, LayerInputs],
    unit_C: Tensor | None,
    is_same: bool,
) -> list[Parts]:
    """Return the parts of μ and of σ from a layer's inputs in training and in inference mode.

    `is_same`: both passes read the same batches, so that one resample leaves a group out of both. Otherwise
    their errors are independent.
    """
    groups = [one.by_group for one in inputs]
    resampled = [_statistics(one, all_but_one(len(one.count_G))) for one in groups]
    found = []
    for place, estimated_C in enumerate(estimated):
        population_C, expected_C = ((one.whole.mean_C, one.whole.sigma_C)[place] for one in inputs)
        scale_C = torch.ones_like(population_C) if unit_C is None else unit_C
        own_C, inherited_C = population_C - estimated_C, expected_C - population_C
        whole = _shares(own_C / scale_C, inherited_C / scale_C)
        population_GC, expected_GC = (statistics[place] for statistics in resampled)
        if is_same:
            deletions = [(population_GC, expected_GC)]
        else:
            deletions = [(population_GC, expected_C), (population_C, expected_GC)]
        errors = []
        for (a_GC, b_GC), one in zip(deletions, groups, strict=False):
            without = _shares((a_GC - estimated_C) / scale_C, (b_GC - a_GC) / scale_C)
            errors.append(
                [jackknife_error(float(w), w_G, one.share_G) for w, w_G in zip(whole, without, strict=True)]
            )
        _, own_error, inherited_error = (math.hypot(*each) for each in zip(*errors, strict=True))
        esm_error = errors[-1][0]  # ESM does not depend on the population in training mode
        esm, own, inherited = map(float, whole)
        own_norm, inherited_norm = (float((part_C / scale_C).norm()) for part_C in (own_C, inherited_C))
        product = float((own_C / scale_C) @ (inherited_C / scale_C))
        cosine = product / (own_norm * inherited_norm or math.nan)
        norms = (own_norm, inherited_norm, cosine)
        found.append(
            Parts(esm, own, inherited, *norms, esm_error, own_error, inherited_error, own_C, inherited_C)
        )
    return found


def _statistics(groups: GroupMoments, weight_RG: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, each (R, C)."""
    mean_RC, var_RC = groups.weighted(weight_RG)
    return mean_RC, var_RC.sqrt()


def _shares(own_XC: Tensor, inherited_XC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ESM and the signed shares of the two parts, each over the last dimension."""
    total_XC = own_XC + inherited_XC
    esm_X = total_XC.norm(dim=-1)
    direction_XC = torch.where(esm_X.unsqueeze(-1) > 0, total_XC / esm_X.unsqueeze(-1), 0.0)
    return esm_X, (own_XC * direction_XC).sum(-1), (inherited_XC * direction_XC).sum(-1)
