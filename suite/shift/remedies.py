"""Compares remedies for the shift of a trained network that need no training. See `remedies` for the list.

ESM compares the expected statistics (μ̂, σ̂ over all batches, in the network as the remedy runs it)
with those that a batch was normalised with, as the root mean square over the n-weighted batches,

    ESM_μ² = E_B ‖μ̂ − μ_used,B‖² = ‖μ̂ − E_B μ_used‖² + Σ_C Var_B μ_used        (σ likewise)

which is the paper's ESM when every batch is normalised alike. The results are means over the layers; those in
units of √(σ̂² + ε) of each channel, and divided by √C, are scaled.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from suite.errors import UserError
from suite.shift.batches import Logits
from suite.shift.layers import estimates, estimating_layers, preserved, put_estimates
from suite.shift.moments import ChannelMoments
from suite.shift.passes import check_repeatable, run_pass, top1_of
from suite.shift.precise import (
    Statistics,
    bias_corrected_statistics,
    precise_statistics,
    with_statistics,
)
from suite.shift.probe import unit
from suite.shift.recorder import Pass, recording

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

PURPOSE = "remedies"


@dataclass(frozen=True)
class Accuracy:
    """A measure of accuracy: the name's stem, such as `ap`, and a function that returns it in percent.

    The function runs the network in inference mode over batches.
    """

    stem: str
    percent: Callable[[nn.Module, Iterable[Any]], float]


@dataclass(frozen=True)
class Remedy:
    """A remedy's accuracy (%) and its ESM, averaged over the BN layers that keep estimates."""

    name: str
    accuracy_percent: float
    esm_mu: float
    esm_sigma: float
    esm_mu_scaled: float
    esm_sigma_scaled: float


@dataclass(frozen=True)
class Remedies:
    """The remedies in the order tried; the unchanged network is the first. `notes` as in a ShiftProfile.

    `accuracy`: the stem of the accuracy's name.
    """

    rows: tuple[Remedy, ...]
    num_images: int
    notes: dict[str, str]
    accuracy: str = "top1"

    def to_frame(self) -> "pd.DataFrame":
        """A row for each: remedy, its accuracy and ESM, and the accuracy gained on the first, in points.

        The columns of accuracy begin with its name: `top1_percent` and `top1_gain_percent`.
        """
        import pandas as pd

        frame = pd.DataFrame([vars(row) for row in self.rows])
        frame[f"{self.accuracy}_gain_percent"] = frame.accuracy_percent - self.rows[0].accuracy_percent
        return frame.rename(columns={"name": "remedy", "accuracy_percent": f"{self.accuracy}_percent"})

    def plot(self) -> "alt.Chart":
        """Accuracy by remedy."""
        from suite.shift.charts import remedies_chart

        return remedies_chart(self.to_frame(), self.accuracy)


def remedies(
    model: nn.Module,
    batches: Iterable[Any],
    training_batches: Iterable[Any] | None = None,
    *,
    momenta: Sequence[float] = (0.01, 0.5),
    source_images: Sequence[int] = (16, 128),
    logits: Logits | None = None,
    accuracy: Accuracy | None = None,
) -> Remedies:
    """Try every remedy on a trained network, one inference pass over `batches` each.

    A BN layer's input (N, C, *) is normalised with these means and variances (C,), where r are the running
    averages and b the statistics of a batch of n:

        frozen               r
        bias-corrected       r without its first values, 0 and 1: see `bias_corrected_statistics`
        PreciseBN            the population's, over the training batches (Wu and Johnson 2021)
        momentum replayed    r ← (1 − m) r + m b over the training batches, for m of `momenta`
        prediction-time BN   b of each test batch (Nado et al. 2020)
        α-BN                 N/(N + n) r + n/(N + n) b, for N of `source_images` (Schneider et al. 2020)

    `batches` yields (images (N, C, *), labels (N,)) pairs or loader batches and is read repeatedly. Without
    `training_batches` the remedies that need them are left out. `logits` takes the (N, K) logits out of what
    the model returns; `accuracy` is measured in place of top-1, as of detectors, whose batches need no
    labels. The model is restored. Raises UserError for a network without estimates, batches that are empty
    or have no labels, values out of range, and under torch.distributed, where each rank's replay would have
    its own running averages.
    """
    if dist.is_initialized() and dist.get_world_size() > 1:
        raise UserError(f"{PURPOSE}: needs all batches in one process, not in {dist.get_world_size()}")
    check_repeatable(batches, PURPOSE)
    layers = estimating_layers(model, PURPOSE)
    for momentum in momenta:
        _check_momentum(momentum)
    if any(n < 1 for n in source_images):
        raise UserError(f"{PURPOSE}: source_images must be 1 or more, got {min(source_images)}")
    attempt = partial(_try, model, batches, logits, accuracy)
    frozen, seen = attempt("frozen")
    with with_statistics(model, bias_corrected_statistics(model)):
        rows = [frozen, attempt("bias-corrected estimates")[0]]
    if training_batches is not None:
        check_repeatable(training_batches, PURPOSE)
        found = {"PreciseBN": precise_statistics(model, training_batches)}
        for momentum in momenta:
            found[f"momentum {momentum:g} replayed"] = replayed_statistics(model, training_batches, momentum)
        for name, statistics in found.items():
            with with_statistics(model, statistics):
                rows.append(attempt(name)[0])
    rows.append(attempt("prediction-time BN", source_images=0)[0])
    rows += [attempt(f"α-BN, N = {n}", source_images=n)[0] for n in source_images]
    stem = "top1" if accuracy is None else accuracy.stem
    return Remedies(tuple(rows), seen.num_images, seen.notes(layers), stem)


def replayed_statistics(model: nn.Module, batches: Iterable[Any], momentum: float) -> Statistics:
    """Return the running averages, each (C,), after a training-mode pass with another momentum.

    They start from the current ones; the weights do not change. The variance is the running, unbiased one.
    The model is restored. Raises UserError for a momentum outside (0, 1] and as `precise_statistics` does.
    """
    _check_momentum(momentum)
    layers = estimating_layers(model, PURPOSE)
    former = {name: layer.momentum for name, layer in layers.items()}
    try:
        with preserved(model):
            model.eval()
            for layer in layers.values():
                layer.momentum = momentum
                layer.train()
            run_pass(model, batches, PURPOSE)
            pairs = {name: estimates(layer) for name, layer in layers.items()}
            return {name: (mean_C.clone(), var_C.clone()) for name, (mean_C, var_C) in pairs.items()}
    finally:
        for name, layer in layers.items():
            layer.momentum = former[name]


def _check_momentum(momentum: float) -> None:
    if not 0 < momentum <= 1:
        raise UserError(f"{PURPOSE}: a momentum must lie in (0, 1], got {momentum:g}")


def _try(
    model: nn.Module,
    batches: Iterable[Any],
    logits: Logits | None,
    accuracy: Accuracy | None,
    name: str,
    source_images: int | None = None,
) -> tuple[Remedy, Pass]:
    """Run one inference pass; with `source_images`, mix each test batch into the model's statistics."""
    mixture = _Mixture(model, source_images)
    with preserved(model):
        model.eval()
        adapt = None if source_images is None else mixture.adapt
        if accuracy is None:
            seen = run_pass(model, batches, PURPOSE, with_labels=True, logits=logits, adapt=adapt)
            percent = top1_of(seen, PURPOSE)
        else:
            with recording(model, PURPOSE, adapt=adapt) as recorder:
                percent = accuracy.percent(model, recorder.watched(batches))
            seen = recorder.result()
        shift = [mixture.esm(n, seen.inputs[n].whole) for n in mixture.layers if n in seen.inputs]
    means = [math.fsum(each) / len(shift) for each in zip(*shift, strict=True)] or [math.nan] * 4
    return Remedy(name, percent, *means), seen


class _Mixture:
    """Writes N/(N + n) source + n/(N + n) test batch into a layer before each call, and sums them up."""

    def __init__(self, model: nn.Module, source_images: int | None) -> None:
        self.source_images = source_images
        self.layers = estimating_layers(model, PURPOSE)
        self.source = {n: tuple(e.clone() for e in estimates(layer)) for n, layer in self.layers.items()}
        self.used_mu: dict[str, ChannelMoments] = {}
        self.used_sigma: dict[str, ChannelMoments] = {}

    def adapt(self, name: str, num_images: int, num_values: int, mean_C: Tensor, var_C: Tensor) -> None:
        if name not in self.layers:
            return
        assert self.source_images is not None
        weight = num_images / (self.source_images + num_images)
        mixed = (
            source_C.to(batch_C.dtype).lerp(batch_C, weight)
            for source_C, batch_C in zip(self.source[name], (mean_C, var_C), strict=True)
        )
        put_estimates(name, self.layers[name], *mixed)
        running_mean, running_var = estimates(self.layers[name])
        for used, value_C in ((self.used_mu, running_mean), (self.used_sigma, running_var.sqrt())):
            moments = used.setdefault(name, ChannelMoments(len(value_C), value_C.device))
            moments.merge(num_images, value_C.double(), torch.zeros_like(moments.squares_C))

    def esm(self, name: str, expected: ChannelMoments) -> tuple[float, float, float, float]:
        """Return ESM_μ and ESM_σ by the module's formula, and both scaled."""
        if name in self.used_mu:
            used = (self.used_mu[name], self.used_sigma[name])
            (mu_C, mu_var_C), (sigma_C, sigma_var_C) = ((m.mean_C, m.var_C) for m in used)
        else:
            mean_C, var_C = self.source[name]
            mu_C, sigma_C = mean_C.double(), var_C.double().sqrt()
            mu_var_C = sigma_var_C = torch.zeros_like(mu_C)
        squares = (
            (expected.mean_C - mu_C).square() + mu_var_C,
            (expected.sigma_C - sigma_C).square() + sigma_var_C,
        )
        unit_C = unit(self.layers[name], expected)
        esm_mu, esm_sigma = (math.sqrt(float(square_C.sum())) for square_C in squares)
        scaled_mu, scaled_sigma = (
            math.sqrt(float((square_C / unit_C.square()).mean())) for square_C in squares
        )
        return esm_mu, esm_sigma, scaled_mu, scaled_sigma
