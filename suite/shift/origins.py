"""Finds the layer that starts the shift: the ESM that vanishes when the estimates of one layer are exact.

*Exact* means the population statistics with upstream in training mode, which the running averages estimate.
A layer that only inherits its shift has them already, so correcting it changes nothing. (With the expected
statistics each layer would absorb its inherited shift too, and every layer would seem to start it.)

ESM is measured for μ, for σ, and for both together, ESM² = ESM_μ² + ESM_σ²: the 2-Wasserstein distance
between normal channels with the expected and with the estimated statistics. The mean is over the same layers
for each corrected layer, so that late and early layers are measured alike. How sure the choice is, is
counted over resamples of the batches. Formula: `find_origins`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from suite.errors import UserError
from suite.shift.batches import Logits
from suite.shift.layers import estimates, estimating_layers, preserved
from suite.shift.passes import check_repeatable, run_pass
from suite.shift.precise import precise_statistics, with_statistics
from suite.shift.probe import unit
from suite.shift.recorder import Pass
from suite.shift.resample import all_but_one, drawn_anew, jackknife_error

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd


# A layer that removes less of the mean ESM than this share does not start it, nor one that removes what
# float32 may have rounded.
MIN_SHARE, ROUNDING = 0.01, 1e-5


@dataclass(frozen=True)
class Origin:
    """By how much one layer's exact estimates reduce the mean ESM of all layers.

    `depth` is its position in the forward pass, from 0; `esm_vanished` is that of both statistics together,
    and `esm_vanished_error` its standard error by the jackknife over groups of batches. `selected_percent`:
    in how many of 100 resamples of the batches this layer starts the shift. Both are NaN with a single batch.
    `top1_gain_percent` is in percentage points; None without labels.
    """

    name: str
    depth: int
    num_layers_behind: int
    esm_vanished: float
    esm_mu_vanished: float
    esm_sigma_vanished: float
    esm_vanished_error: float
    selected_percent: float
    top1_gain_percent: float | None


@dataclass(frozen=True)
class Origins:
    """The tried layers in forward order, and the unchanged network's mean ESM over its layers and top-1."""

    layers: tuple[Origin, ...]
    esm: float
    esm_mu: float
    esm_sigma: float
    scale: float
    """The mean over the layers of √(‖μ̂‖² + ‖σ̂‖²), in the units of ESM, to compare it with."""
    top1_percent: float | None
    notes: dict[str, str]
    """Warnings by layer name, as in a ShiftProfile."""

    @property
    def starts(self) -> str | None:
        """The layer whose exact estimates remove the most ESM; None when none removes MIN_SHARE of it."""
        most = max(self.layers, key=lambda origin: origin.esm_vanished, default=None)
        is_enough = most is not None and most.esm_vanished > _least(self.esm, self.scale)
        return most.name if most is not None and is_enough else None

    def to_frame(self) -> "pd.DataFrame":
        """A row for each tried layer: depth (from 0), layer, and the other fields of its Origin."""
        import pandas as pd

        columns = dict.fromkeys(["depth", "name", *Origin.__dataclass_fields__])
        frame = pd.DataFrame([vars(origin) for origin in self.layers], columns=list(columns))
        return frame.rename(columns={"name": "layer"})

    def plot(self) -> "alt.Chart":
        """The ESM that vanishes, by layer."""
        from suite.shift.charts import origins_chart

        return origins_chart(self.to_frame())


def find_origins(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    training_batches: Iterable[Any] | None = None,
    layers: Sequence[str] | None = None,
    scaled: bool = True,
    logits: Logits | None = None,
) -> Origins:
    """Make the estimates of one BN layer at a time exact, and measure shift and accuracy again.

        vanished_k  =  (1 / L) Σ_l (ESM_l  −  ESM_l with layer k exact)

    over all L layers, k among them; ESM as in `probe`, each of a layer's input (N, C, *). Negative where
    correcting one layer uncovers an error that it had cancelled. *Exact* are the
    population's mean and variance (C,) with upstream BN in training mode. With `scaled` each channel is in
    units of the unchanged network's √(σ̂² + ε) and divided by √C, so that layers of other widths and scales
    weigh alike in the mean; without, ESM is the paper's. The measure is ours.

    Costs an inference pass over `batches` for each of `layers` (default: all that keep estimates and are
    called) and two more. `batches` as in `probe`; the exact statistics are taken over `training_batches`,
    or over `batches` when there are none. The order is that of the forward pass; layers on a parallel branch
    count as behind. The model is restored. Raises UserError for a network without estimates, an unknown
    layer, one that is no longer called once another is exact, and batches that are empty or cannot be read
    repeatedly.
    `logits` takes the (N, K) logits out of what the model returns.
    """
    check_repeatable(batches, "find_origins")
    estimating = estimating_layers(model, "find_origins")
    exact = precise_statistics(model, batches if training_batches is None else training_batches)
    before = _inference_pass(model, batches, logits)
    order = [name for name in before.inputs if name in estimating and name in exact]
    if unknown := [name for name in layers or () if name not in order]:
        reason = f"is not a BN layer that keeps estimates; valid: {', '.join(order)}"
        raise UserError(f"find_origins: {unknown[0]!r} {reason}")
    measured = _MeanShift(before, {name: estimating[name] for name in order}, scaled)
    shift_before_R3 = measured.of(before)
    tried = order if layers is None else sorted(layers, key=order.index)
    vanished: list[Tensor] = []
    gains: list[float | None] = []
    for name in tried:
        with with_statistics(model, {name: exact[name]}):
            after = _inference_pass(model, batches, logits)
            if missing := [n for n in order if n not in after.inputs]:
                raise UserError(f"find_origins: {missing[0]} is no longer called when {name} is exact")
            vanished.append(shift_before_R3 - measured.of(after))
        gain = None
        if before.top1_percent is not None and after.top1_percent is not None:
            gain = after.top1_percent - before.top1_percent
        gains.append(gain)
    selected = measured.selected(shift_before_R3, vanished)
    found = []
    for name, vanished_R3, selected_percent, gain in zip(tried, vanished, selected, gains, strict=True):
        depth, (esm, mu, sigma) = order.index(name), vanished_R3[0].tolist()
        error = measured.error(vanished_R3[:, 0])
        behind = len(order) - 1 - depth
        found.append(Origin(name, depth, behind, esm, mu, sigma, error, selected_percent, gain))
    esm, mu, sigma = shift_before_R3[0].tolist()
    notes = before.notes(measured.layers)
    return Origins(tuple(found), esm, mu, sigma, measured.scale, before.top1_percent, notes)


def _inference_pass(model: nn.Module, batches: Iterable[Any], logits: Logits | None) -> Pass:
    with preserved(model):
        model.eval()
        return run_pass(model, batches, "find_origins", with_labels=True, logits=logits)


class _MeanShift:
    """Means over `layers` of ESM, ESM_μ and ESM_σ with their current estimates, for resamples of the batches.

    The resamples (R): all groups of batches, all but each one, and groups drawn anew.
    """

    def __init__(self, seen: Pass, layers: Mapping[str, _BatchNorm], scaled: bool) -> None:
        self.layers = layers
        inputs = [seen.inputs[name] for name in layers]
        self.units = [
            unit(layer, one.whole) * math.sqrt(layer.num_features)
            if scaled
            else torch.ones_like(one.whole.mean_C)
            for layer, one in zip(layers.values(), inputs, strict=True)
        ]
        sizes = [
            math.hypot(*(float((part_C / unit_C).norm()) for part_C in (one.whole.mean_C, one.whole.sigma_C)))
            for one, unit_C in zip(inputs, self.units, strict=True)
        ]
        self.scale = math.fsum(sizes) / len(sizes) if sizes else math.nan
        count_G = torch.stack([one.by_group.count_G for one in inputs]).sum(dim=0)
        self.share_G = count_G / count_G.sum()
        self.num_groups = len(count_G)
        whole_1G = torch.ones(1, self.num_groups, dtype=torch.float64)
        self.weight_RG = torch.cat([whole_1G, all_but_one(self.num_groups), drawn_anew(count_G > 0)])

    def of(self, seen: Pass) -> Tensor:
        """Return ESM, ESM_μ and ESM_σ, (R, 3)."""
        total_R3 = torch.zeros(len(self.weight_RG), 3, dtype=torch.float64)
        for (name, layer), unit_C in zip(self.layers.items(), self.units, strict=True):
            mean_RC, var_RC = seen.inputs[name].by_group.weighted(self.weight_RG)
            mean_C, var_C = (estimate.double() for estimate in estimates(layer))
            mu_R = ((mean_RC - mean_C) / unit_C).norm(dim=1)
            sigma_R = ((var_RC.sqrt() - var_C.sqrt()) / unit_C).norm(dim=1)
            total_R3 += torch.stack([mu_R.hypot(sigma_R), mu_R, sigma_R], dim=1).cpu()
        return total_R3 / len(self.layers)

    def error(self, value_R: Tensor) -> float:
        """Return the standard error of a number, from its value in every resample."""
        return jackknife_error(float(value_R[0]), value_R[1 : 1 + self.num_groups], self.share_G.cpu())

    def selected(self, before_R3: Tensor, vanished: Sequence[Tensor]) -> list[float]:
        """Return for each tried layer in how many of 100 resamples it starts the shift."""
        if int((self.share_G > 0).sum()) < 2:
            return [math.nan] * len(vanished)
        drawn = slice(1 + self.num_groups, None)
        vanished_KR = torch.stack([one[drawn, 0] for one in vanished])
        most_R, place_R = vanished_KR.max(dim=0)
        least_R = torch.tensor([_least(float(esm), self.scale) for esm in before_R3[drawn, 0]])
        place_R = place_R[most_R > least_R]
        counts_K = torch.bincount(place_R, minlength=len(vanished))
        return [100 * count / len(least_R) for count in counts_K.tolist()]


def _least(esm: float, scale: float) -> float:
    """Return what must vanish at least for a layer to start the shift."""
    return max(MIN_SHARE * esm, ROUNDING * scale)
