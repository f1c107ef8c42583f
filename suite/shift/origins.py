"""Which layer starts the shift: what vanishes when the estimates of one layer alone are made exact.

*Exact* means the population statistics with upstream in training mode, which are what a running average
tries to be: a layer that only inherits has them already, so mending it mends nothing. (With the expected
statistics every layer would absorb what comes from before it, and each would seem to start it.)

For layer k, over all L layers l, its own among them, with ESM as in the probe:

    vanished_k  =  (1 / L) Σ_l (ESM_l  −  ESM_l with layer k exact)

Over the same layers for each k, so that a layer at the end is measured as one at the start is. Negative where
mending one layer lays bare an error that another had hidden. The measure is ours.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from suite.errors import UserError
from suite.shift.layers import estimates, estimating_layers, preserved
from suite.shift.passes import Pass, check_repeatable, run_pass
from suite.shift.precise import precise_statistics, with_statistics

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd


# What takes away less, as a share of the mean ESM, starts nothing; nor does what float32 may have rounded.
NOTHING, ROUNDING = 0.01, 1e-5


@dataclass(frozen=True)
class Origin:
    """What making one layer's estimates exact takes away from the mean ESM of all layers.

    `top1_gain_percent` is in percentage points, None without labels.
    """

    name: str
    num_layers_behind: int
    esm_mu_vanished: float
    esm_sigma_vanished: float
    top1_gain_percent: float | None


@dataclass(frozen=True)
class Origins:
    """The tried layers in forward order, beside the network as it is: means over its layers, and top-1."""

    layers: tuple[Origin, ...]
    esm_mu: float
    esm_sigma: float
    sigma_norm: float
    """Of ‖σ̂‖: the scale of ESM_σ."""
    top1_percent: float | None
    notes: dict[str, str]
    """What one should know of a layer that is there, as in a ShiftProfile."""

    @property
    def starts(self) -> str | None:
        """The layer whose exact estimates take away the most ESM_σ; None where none takes away NOTHING."""
        most = max(self.layers, key=lambda origin: origin.esm_sigma_vanished, default=None)
        nothing = max(NOTHING * self.esm_sigma, ROUNDING * self.sigma_norm)
        return most.name if most is not None and most.esm_sigma_vanished > nothing else None

    def to_frame(self) -> "pd.DataFrame":
        """A row for each tried layer, with the fields of its Origin."""
        import pandas as pd

        columns = list(Origin.__dataclass_fields__)
        return pd.DataFrame([[getattr(o, c) for c in columns] for o in self.layers], columns=columns)

    def plot(self) -> "alt.Chart":
        """The ESM_σ that vanishes, by layer."""
        from suite.shift.charts import origins_chart

        return origins_chart(self.to_frame())


def find_origins(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    training_batches: Iterable[Any] | None = None,
    layers: Sequence[str] | None = None,
) -> Origins:
    """Make the estimates of one BN layer after another exact, and measure shift and accuracy anew.

        vanished_k  =  (1 / L) Σ_l (ESM_l  −  ESM_l with layer k exact)

    over all L layers, k among them; ESM as in `probe`, each of a layer's input (N, C, *). *Exact* are the
    population's mean and variance (C,) with upstream BN in training mode. The measure is ours.

    Costs an inference pass over `batches` for each of `layers` (default: all that keep estimates and are
    called) and two more. `batches` as in `probe`; the exact statistics are taken over `training_batches`,
    or else over `batches` too. Order is that of the forward pass: layers on a parallel branch count as
    behind, and change nothing. The model comes back as it was. Raises UserError for a network without
    estimates, an unknown layer, and batches that are empty or cannot be read repeatedly.
    """
    check_repeatable(batches, "find_origins")
    estimating = estimating_layers(model, "find_origins")
    exact = precise_statistics(model, batches if training_batches is None else training_batches)
    before = _inference_pass(model, batches)
    order = [name for name in before.inputs if name in estimating and name in exact]
    unknown = [name for name in layers or () if name not in order]
    if unknown:
        raise UserError(
            f"find_origins: {unknown[0]!r} is no BN layer that keeps estimates; valid: {', '.join(order)}"
        )
    shift_before = _shift(model, before)
    found = []
    for name in order if layers is None else sorted(layers, key=order.index):
        with with_statistics(model, {name: exact[name]}):
            after = _inference_pass(model, batches)
            shift_after = _shift(model, after)
        behind = order[order.index(name) + 1 :]
        vanished = [[shift_before[n][i] - shift_after[n][i] for n in order] for i in range(2)]
        gain = None
        if before.top1_percent is not None and after.top1_percent is not None:
            gain = after.top1_percent - before.top1_percent
        found.append(Origin(name, len(behind), _mean(vanished[0]), _mean(vanished[1]), gain))
    means = [_mean([shift_before[n][i] for n in order]) for i in range(2)]
    sigma_norm = _mean([float(before.inputs[n].whole.sigma_C.norm()) for n in order])
    notes = before.notes({name: estimating[name] for name in order})
    return Origins(tuple(found), means[0], means[1], sigma_norm, before.top1_percent, notes)


def _inference_pass(model: nn.Module, batches: Iterable[Any]) -> Pass:
    with preserved(model):
        model.eval()
        return run_pass(model, batches, "find_origins", with_labels=True)


def _shift(model: nn.Module, seen: Pass) -> dict[str, tuple[float, float]]:
    """ESM_μ and ESM_σ of every layer with estimates that the pass called."""
    shift = {}
    for name, layer in estimating_layers(model, "find_origins").items():
        if name in seen.inputs:
            mean_C, var_C = (estimate.double() for estimate in estimates(layer))
            expected = seen.inputs[name].whole
            mu, sigma = expected.mean_C - mean_C, expected.sigma_C - var_C.sqrt()
            shift[name] = (float(mu.norm()), float(sigma.norm()))
    return shift


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
