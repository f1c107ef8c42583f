"""Measures a network with the statistics that it has, and with those of its weights as they are now.

They differ where the weights were changed after the statistics were estimated: averages of weights, soups,
points on the line between two networks, pruned or rescaled weights.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from suite.shift.batches import Logits
from suite.shift.layers import estimating_layers, preserved
from suite.shift.passes import check_repeatable, run_pass
from suite.shift.precise import Statistics, precise_statistics, with_statistics
from suite.shift.probe import ShiftProfile, probe

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

PURPOSE = "re-estimation"
OWN, RE_ESTIMATED = "its own", "re-estimated"
MEANS = ("esm_mu_scaled", "esm_sigma_scaled", "esm_mu", "esm_sigma")


@dataclass(frozen=True)
class WithStatistics:
    """A network's top-1 (%) and shift with some statistics. Top-1 is None without labels or logits."""

    statistics: str
    top1_percent: float | None
    profile: ShiftProfile


@dataclass(frozen=True)
class ReEstimation:
    """A network with its own statistics, and with re-estimated ones."""

    own: WithStatistics
    re_estimated: WithStatistics
    num_images: int

    def to_frame(self) -> "pd.DataFrame":
        """Return two rows: statistics, top1_percent, `top1_gain_percent` (points), and ESM's means."""
        import pandas as pd

        rows = self._both
        frame = pd.DataFrame({"statistics": [row.statistics for row in rows]})
        frame["top1_percent"] = pd.Series([row.top1_percent for row in rows], dtype="float64")
        frame["top1_gain_percent"] = frame.top1_percent - frame.top1_percent[0]
        return frame.assign(**{name: [row.profile.mean(name) for row in rows] for name in MEANS})

    def plot(self) -> "alt.Chart":
        """Scaled ESM_μ by depth, with both statistics."""
        import pandas as pd

        from suite.shift.charts import statistics_chart

        frames = [one.profile.to_frame().assign(statistics=one.statistics) for one in self._both]
        return statistics_chart(pd.concat(frames))

    @property
    def _both(self) -> tuple[WithStatistics, WithStatistics]:
        return self.own, self.re_estimated


def re_estimate(
    model: nn.Module,
    batches: Iterable[Any],
    training_batches: Iterable[Any],
    *,
    logits: Logits | None = None,
) -> ReEstimation:
    """Measure `model` with the statistics it has, and with PreciseBN's over `training_batches`.

    The statistics are mean and variance (C,) of each BN layer's input (N, C, *), with the BN layers in
    training mode (Wu and Johnson 2021); the shift is `probe`'s. Layers that normalise with constants keep
    them. `batches` yields images (N, C, *), (images, labels (N,)) pairs or loader batches, and is read four
    times. `logits` takes the (N, K) logits out of what the model returns. The model is restored. Raises
    UserError for a network without estimates, and for batches that are empty or can be read only once.
    """
    check_repeatable(batches, PURPOSE)
    estimating_layers(model, PURPOSE)
    own = measured_with(model, batches, {}, OWN, logits)
    statistics = precise_statistics(model, training_batches)
    return ReEstimation(
        own, measured_with(model, batches, statistics, RE_ESTIMATED, logits), own.profile.num_images
    )


def measured_with(
    model: nn.Module, batches: Iterable[Any], statistics: Statistics, name: str, logits: Logits | None
) -> WithStatistics:
    """Return top-1 and shift of the model with `statistics` in place of its own; empty: with its own."""
    with with_statistics(model, statistics):
        top1_percent = top1_percent_of(model, batches, logits)
        return WithStatistics(name, top1_percent, probe(model, batches))


def top1_percent_of(model: nn.Module, batches: Iterable[Any], logits: Logits | None) -> float | None:
    """Return top-1 (%) in inference mode, or None without labels or logits. The model is restored."""
    with preserved(model):
        model.eval()
        return run_pass(model, batches, PURPOSE, with_labels=True, logits=logits).top1_percent
