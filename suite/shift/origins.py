"""Finds the layer that starts the shift: the ESM that vanishes when the estimates of one layer are exact.

*Exact* means the population statistics with upstream in training mode, which the running averages estimate.
A layer that only inherits its shift has them already, so correcting it changes nothing. (With the expected
statistics each layer would absorb its inherited shift too, and every layer would seem to start it.)

ESM is measured for μ, for σ, and for both together, ESM² = ESM_μ² + ESM_σ²: the 2-Wasserstein distance
between normal channels with the expected and with the estimated statistics. The mean is over the same layers
for each corrected layer, so that late and early layers are measured alike. Formula: `find_origins`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from suite.errors import UserError
from suite.shift.batches import Logits
from suite.shift.layers import estimating_layers, preserved
from suite.shift.passes import Pass, check_repeatable, run_pass
from suite.shift.precise import precise_statistics, with_statistics
from suite.shift.probe import differences

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd


# A layer that removes less of the mean ESM than this share does not start it, nor one that removes what
# float32 may have rounded.
MIN_SHARE, ROUNDING = 0.01, 1e-5


@dataclass(frozen=True)
class Origin:
    """By how much one layer's exact estimates reduce the mean ESM of all layers.

    `depth` is its position in the forward pass, from 0; `esm_vanished` is that of both statistics together.
    `top1_gain_percent` is in percentage points; None without labels.
    """

    name: str
    depth: int
    num_layers_behind: int
    esm_vanished: float
    esm_mu_vanished: float
    esm_sigma_vanished: float
    top1_gain_percent: float | None


@dataclass(frozen=True)
class Origins:
    """The tried layers in forward order, and the unchanged network's mean ESM over its layers and top-1."""

    layers: tuple[Origin, ...]
    esm: float
    esm_mu: float
    esm_sigma: float
    scale: float
    """The mean over the layers of √(‖μ̂‖² + ‖σ̂‖²), to compare ESM with."""
    top1_percent: float | None
    notes: dict[str, str]
    """Warnings by layer name, as in a ShiftProfile."""

    @property
    def starts(self) -> str | None:
        """The layer whose exact estimates remove the most ESM; None when none removes MIN_SHARE of it."""
        most = max(self.layers, key=lambda origin: origin.esm_vanished, default=None)
        least = max(MIN_SHARE * self.esm, ROUNDING * self.scale)
        return most.name if most is not None and most.esm_vanished > least else None

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
    logits: Logits | None = None,
) -> Origins:
    """Make the estimates of one BN layer at a time exact, and measure shift and accuracy again.

        vanished_k  =  (1 / L) Σ_l (ESM_l  −  ESM_l with layer k exact)

    over all L layers, k among them; ESM as in `probe`, each of a layer's input (N, C, *). Negative where
    correcting one layer uncovers an error that it had cancelled. *Exact* are the
    population's mean and variance (C,) with upstream BN in training mode. The measure is ours.

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
    tried = {name: estimating[name] for name in order}
    shift_before = _mean_shift(before, tried)
    if unknown := [name for name in layers or () if name not in order]:
        reason = f"is not a BN layer that keeps estimates; valid: {', '.join(order)}"
        raise UserError(f"find_origins: {unknown[0]!r} {reason}")
    found = []
    for name in order if layers is None else sorted(layers, key=order.index):
        with with_statistics(model, {name: exact[name]}):
            after = _inference_pass(model, batches, logits)
            if missing := [n for n in order if n not in after.inputs]:
                raise UserError(f"find_origins: {missing[0]} is no longer called when {name} is exact")
            shift_after = _mean_shift(after, tried)
        gain = None
        if before.top1_percent is not None and after.top1_percent is not None:
            gain = after.top1_percent - before.top1_percent
        esm, mu, sigma = (a - b for a, b in zip(shift_before, shift_after, strict=True))
        depth = order.index(name)
        found.append(Origin(name, depth, len(order) - 1 - depth, esm, mu, sigma, gain))
    scale = _mean([_joint(before.inputs[n].whole.mean_C, before.inputs[n].whole.sigma_C) for n in order])
    return Origins(tuple(found), *shift_before, scale, before.top1_percent, before.notes(tried))


def _inference_pass(model: nn.Module, batches: Iterable[Any], logits: Logits | None) -> Pass:
    with preserved(model):
        model.eval()
        return run_pass(model, batches, "find_origins", with_labels=True, logits=logits)


def _mean_shift(seen: Pass, layers: Mapping[str, _BatchNorm]) -> tuple[float, float, float]:
    """Return ESM, ESM_μ and ESM_σ with the current estimates, means over these layers."""
    pairs = [differences(layer, seen.inputs[name].whole) for name, layer in layers.items()]
    mu, sigma = (_mean([float(pair[i].norm()) for pair in pairs]) for i in range(2))
    return _mean([_joint(*pair) for pair in pairs]), mu, sigma


def _joint(mu_C: Tensor, sigma_C: Tensor) -> float:
    return math.hypot(float(mu_C.norm()), float(sigma_C.norm()))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
