"""Which layer starts the shift: what vanishes when the estimates of one layer alone are made exact.

*Exact* means the population statistics with upstream in training mode, which are what a running average
tries to be: a layer that only inherits has them already, so mending it mends nothing. (With the expected
statistics every layer would absorb what comes from before it, and each would seem to start it.)

For layer k, over all L layers l, its own among them, with ESM as in the probe:

    vanished_k  =  (1 / L) Σ_l (ESM_l  −  ESM_l with layer k exact)

for ESM_μ, for ESM_σ, and for both together, ESM² = ESM_μ² + ESM_σ²: the 2-Wasserstein distance between normal
channels with the expected and with the estimated statistics. Over the same layers for each k, so that a layer
at the end is measured as one at the start is. Negative where mending one layer lays bare an error that
another had hidden. The measure is ours.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from suite.errors import UserError
from suite.shift.layers import estimating_layers, preserved
from suite.shift.passes import Pass, check_repeatable, run_pass
from suite.shift.precise import precise_statistics, with_statistics
from suite.shift.probe import differences

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd


# A layer that takes away less of the mean ESM than this share starts nothing, nor one that takes away what
# float32 may have rounded.
MIN_SHARE, ROUNDING = 0.01, 1e-5


@dataclass(frozen=True)
class Origin:
    """What making one layer's estimates exact takes away from the mean ESM of all layers.

    `depth` is its place in the forward pass, from 0; `esm_vanished` is of both statistics together.
    `top1_gain_percent` is in percentage points, None without labels.
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
    """The tried layers in forward order, beside the network as it is: means over its layers, and top-1."""

    layers: tuple[Origin, ...]
    esm: float
    esm_mu: float
    esm_sigma: float
    scale: float
    """Of √(‖μ̂‖² + ‖σ̂‖²): what ESM is to be seen beside."""
    top1_percent: float | None
    notes: dict[str, str]
    """What one should know of a layer that is there, as in a ShiftProfile."""

    @property
    def starts(self) -> str | None:
        """The layer whose exact estimates take away the most ESM; None where none takes away MIN_SHARE."""
        most = max(self.layers, key=lambda origin: origin.esm_vanished, default=None)
        least = max(MIN_SHARE * self.esm, ROUNDING * self.scale)
        return most.name if most is not None and most.esm_vanished > least else None

    def to_frame(self) -> "pd.DataFrame":
        """A row for each tried layer: depth (from 0), layer, and the other fields of its Origin."""
        import pandas as pd

        columns = ["depth", "name", *(c for c in Origin.__dataclass_fields__ if c not in ("depth", "name"))]
        rows = [[getattr(origin, column) for column in columns] for origin in self.layers]
        return pd.DataFrame(rows, columns=columns).rename(columns={"name": "layer"})

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
) -> Origins:
    """Make the estimates of one BN layer after another exact, and measure shift and accuracy anew.

        vanished_k  =  (1 / L) Σ_l (ESM_l  −  ESM_l with layer k exact)

    over all L layers, k among them; ESM as in `probe`, each of a layer's input (N, C, *). *Exact* are the
    population's mean and variance (C,) with upstream BN in training mode. The measure is ours.

    Costs an inference pass over `batches` for each of `layers` (default: all that keep estimates and are
    called) and two more. `batches` as in `probe`; the exact statistics are taken over `training_batches`,
    or else over `batches` too. Order is that of the forward pass: layers on a parallel branch count as
    behind, and change nothing. The model comes back as it was. Raises UserError for a network without
    estimates, an unknown layer, one that is not called any more once another is exact, and batches that are
    empty or cannot be read repeatedly.
    """
    check_repeatable(batches, "find_origins")
    estimating = estimating_layers(model, "find_origins")
    exact = precise_statistics(model, batches if training_batches is None else training_batches)
    before = _inference_pass(model, batches)
    order = [name for name in before.inputs if name in estimating and name in exact]
    tried = {name: estimating[name] for name in order}
    shift_before = _mean_shift(before, tried)
    unknown = [name for name in layers or () if name not in order]
    if unknown:
        raise UserError(
            f"find_origins: {unknown[0]!r} is no BN layer that keeps estimates; valid: {', '.join(order)}"
        )
    found = []
    for name in order if layers is None else sorted(layers, key=order.index):
        with with_statistics(model, {name: exact[name]}):
            after = _inference_pass(model, batches)
            if missing := [n for n in order if n not in after.inputs]:
                raise UserError(f"find_origins: {missing[0]} is not called any more with {name} exact")
            shift_after = _mean_shift(after, tried)
        gain = None
        if before.top1_percent is not None and after.top1_percent is not None:
            gain = after.top1_percent - before.top1_percent
        esm, mu, sigma = (a - b for a, b in zip(shift_before, shift_after, strict=True))
        depth = order.index(name)
        found.append(Origin(name, depth, len(order) - 1 - depth, esm, mu, sigma, gain))
    scale = _mean([_joint(before.inputs[n].whole.mean_C, before.inputs[n].whole.sigma_C) for n in order])
    notes = before.notes(tried)
    return Origins(tuple(found), *shift_before, scale, before.top1_percent, notes)


def _inference_pass(model: nn.Module, batches: Iterable[Any]) -> Pass:
    with preserved(model):
        model.eval()
        return run_pass(model, batches, "find_origins", with_labels=True)


def _mean_shift(seen: Pass, layers: Mapping[str, _BatchNorm]) -> tuple[float, float, float]:
    """ESM, ESM_μ and ESM_σ with the estimates as they are now, means over these layers."""
    pairs = [differences(layer, seen.inputs[name].whole) for name, layer in layers.items()]
    return (
        _mean([_joint(*pair) for pair in pairs]),
        _mean([float(mu_C.norm()) for mu_C, _ in pairs]),
        _mean([float(sigma_C.norm()) for _, sigma_C in pairs]),
    )


def _joint(mu_C: Tensor, sigma_C: Tensor) -> float:
    return math.hypot(float(mu_C.norm()), float(sigma_C.norm()))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
