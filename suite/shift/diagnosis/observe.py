"""What a diagnosis looks at: four passes, on training and evaluation images, with and without the estimates.

BN layers in training mode normalise with batch statistics; all else, such as dropout, stays in inference
mode. The pass over the training batches also notes how statistics vary between batches, and what a running
average over these batches would hold: r ← (1 − m) r + m b is linear in r, so that for each layer one number
and two vectors give it for any start.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from suite.errors import UserError
from suite.shift.batches import Logits
from suite.shift.diagnosis.batches import PURPOSE, SameBatches
from suite.shift.layers import (
    batch_norm_layers,
    check_visible,
    estimates,
    frozen_layers,
    is_bias_corrected,
    nothing_estimated,
    preserved,
    put_estimates,
)
from suite.shift.moments import ChannelMoments
from suite.shift.passes import run_pass, top1_of
from suite.shift.precise import Statistics, statistics_of, with_statistics
from suite.shift.recorder import Pass

FULL = 0.5  # a batch with less than this share of the first one's images is not a full one


@dataclass
class Average:
    """r ← (1 − m) r + m b over batches, from a start r₀ given later: r = kept r₀ + (mean_C, var_C)."""

    kept: float
    mean_C: Tensor
    var_C: Tensor

    def after(self, weight: float, mean_C: Tensor, var_C: Tensor) -> "Average":
        """Return the average with one more batch."""
        left = 1 - weight
        mean_C, var_C = self.mean_C * left + weight * mean_C, self.var_C * left + weight * var_C
        return Average(self.kept * left, mean_C, var_C)

    def started_at(self, start: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return mean and variance, each (C,), of the average that began at `start`."""
        mean_C, var_C = (value_C.double() for value_C in start)
        return self.kept * mean_C + self.mean_C, self.kept * var_C + self.var_C


class BatchWatch:
    """Of one layer, over the training batches: how μ_B and σ_B vary, and the running average."""

    def __init__(self, layer: nn.Module) -> None:
        mean_C, _ = estimates(layer)
        zeros_C = torch.zeros(mean_C.numel(), dtype=torch.float64, device=mean_C.device)
        self.layer = layer
        self.mu, self.sigma = (ChannelMoments(len(zeros_C), zeros_C.device) for _ in range(2))
        self.average = self.before_last = Average(1.0, zeros_C, zeros_C)
        self.samples, self.updates = 0, updates_of(layer)
        self.statistics = 0  # as many as there were batches, or ghost groups

    def update(self, num_images: int, num_values: int, mean_C: Tensor, var_C: Tensor) -> None:
        """Add a batch of `num_values` values a channel, with its mean and biased variance."""
        mean_C, var_C = mean_C.double(), var_C.double()
        self.samples = self.samples or num_images
        if num_images >= FULL * self.samples:
            self.mu.merge(1, mean_C, torch.zeros_like(mean_C))
            self.sigma.merge(1, var_C.sqrt(), torch.zeros_like(mean_C))
        weight = self._weight(num_images)
        self.before_last = self.average
        self.average = self.average.after(weight, mean_C, var_C * (num_values / max(1, num_values - 1)))

    def _weight(self, num_images: int) -> float:
        """Return the weight of the next batch in the average: m, or that of all its ghost groups together."""
        groups = math.ceil(num_images / self.samples_per_statistic)
        self.updates += groups
        self.statistics += groups
        if getattr(self.layer, "momentum", 0.0) is None:
            return groups / self.updates
        left = 1 - momentum_of(self.layer)
        if is_bias_corrected(self.layer):
            before = self.updates - groups
            return float(1 - left**groups * (1 - left**before) / (1 - left**self.updates))
        return float(1 - left**groups)

    @property
    def samples_per_statistic(self) -> int:
        """The images behind one statistic: those of a full batch, or of a ghost group."""
        ghost = getattr(self.layer, "norm_batch_size", None)
        return min(self.samples, ghost) if isinstance(ghost, int) else self.samples

    def noise(self) -> tuple[Tensor, Tensor]:
        """Return the standard deviations, each (C,), of a statistic's μ_B and σ_B between full batches."""
        scale = self.samples / self.samples_per_statistic
        parts = (
            moments.var_C * (moments.count / max(1, moments.count - 1)) for moments in (self.mu, self.sigma)
        )
        mu_C, sigma_C = ((var_C * scale).sqrt() for var_C in parts)
        return mu_C, sigma_C


def momentum_of(layer: nn.Module) -> float:
    """Return a layer's momentum; that of the next batch in a cumulative average; 0 for constants."""
    if not isinstance(layer, _BatchNorm):
        return 0.0
    return 1 / (1 + updates_of(layer)) if layer.momentum is None else layer.momentum


def updates_of(layer: nn.Module) -> int:
    """Return how many batches have updated a layer's estimates, as it counts them itself."""
    batches = getattr(layer, "num_batches_tracked", None)
    return int(batches) if isinstance(batches, Tensor) else 0


@dataclass(frozen=True)
class Observed:
    """A network's layers with estimates or constants, and four passes: BN in training and inference mode.

    `is_training`: whether each layer was in training mode when the network was given. `own`: the network's
    own estimates, each (C,). `constants`: those that layers have by batch statistics in place of their own.
    """

    model: nn.Module
    logits: Logits | None
    training: SameBatches
    evaluation: SameBatches
    layers: Mapping[str, nn.Module]
    is_training: Mapping[str, bool]
    watches: Mapping[str, BatchWatch]
    training_by_batch: Pass
    training_inference: Pass
    evaluation_by_batch: Pass
    evaluation_inference: Pass
    own: Statistics
    constants: Statistics = field(default_factory=dict)
    has_averaged_weights: bool = False

    @cached_property
    def exact(self) -> Statistics:
        """The population's mean and variance over the training batches, each (C,) float64 (PreciseBN)."""
        found = statistics_of(self.training_by_batch)
        return {name: found[name] for name in self.layers}

    def unit_C(self, name: str) -> Tensor:
        """Return the standard deviation of a layer's input over the training batches, with BN's ε."""
        return (self.exact[name][1] + float(getattr(self.layers[name], "eps", 1e-5))).sqrt()

    def exact_of_constants(self, names: Iterable[str]) -> Statistics:
        """Return the population of layers with constants, with these layers by batch statistics too."""
        chosen = {name: self.layers[name] for name in names}
        with with_statistics(self.model, self.constants):
            found = statistics_of(_batch_pass(self.model, self.training, self.logits, {}, chosen))
        return {name: found[name] for name in chosen}

    def with_constants(self, constants: Statistics) -> "Observed":
        """Return what is observed by batch statistics when layers have other constants."""
        watches = {name: BatchWatch(layer) for name, layer in self.layers.items()}
        constants = {**self.constants, **constants}
        with with_statistics(self.model, constants):
            training = _batch_pass(self.model, self.training, self.logits, watches)
            evaluation = _batch_pass(self.model, self.evaluation, self.logits, {})
        return replace(
            self,
            watches=watches,
            constants=constants,
            training_by_batch=training,
            evaluation_by_batch=evaluation,
        )

    def right(self, statistics: Statistics) -> tuple[Tensor, Tensor]:
        """Return which training and which evaluation images are right with these estimates, two passes."""
        training = inference_pass(self.model, self.training, self.logits, statistics)
        evaluation = inference_pass(self.model, self.evaluation, self.logits, statistics)
        return right_of(training), right_of(evaluation)


def observe(
    model: nn.Module, training: Iterable[Any], evaluation: Iterable[Any], logits: Logits | None
) -> Observed:
    """Run the four passes. The model is restored. Raises UserError as `suite.shift.diagnose` says."""
    check_visible(model, PURPOSE)
    batch_norms = batch_norm_layers(model)
    with_estimates: dict[str, nn.Module] = {
        name: layer for name, layer in batch_norms.items() if layer.running_var is not None
    }
    all_layers = with_estimates | frozen_layers(model)
    if not all_layers:
        raise nothing_estimated(model, PURPOSE)
    is_training = {name: layer.training for name, layer in with_estimates.items()}
    same = SameBatches(training, "training"), SameBatches(evaluation, "evaluation")
    inference = []
    for batches in same:
        inference.append(inference_pass(model, batches, logits))
        top1_of(inference[-1], PURPOSE)
        batches.check()
    layers = {name: all_layers[name] for name in inference[0].inputs if name in all_layers}
    if not layers:
        raise UserError(f"{PURPOSE}: the forward pass calls no layer that keeps estimates")
    watches = {name: BatchWatch(layer) for name, layer in layers.items()}
    by_batch = _batch_pass(model, same[0], logits, watches), _batch_pass(model, same[1], logits, {})
    for name, seen in by_batch[0].inputs.items():
        if not (seen.whole.mean_C.isfinite().all() and seen.whole.squares_C.isfinite().all()):
            raise UserError(
                f"{PURPOSE}: the inputs of {name} are not finite even with batch statistics: the weights, "
                "the images or the constants of frozen layers are damaged, and not the estimates"
            )
    passes = (by_batch[0], inference[0], by_batch[1], inference[1])
    own = {
        name: (m.clone(), v.clone())
        for name, (m, v) in ((n, estimates(layer)) for n, layer in layers.items())
    }
    return Observed(model, logits, *same, layers, is_training, watches, *passes, own)


def right_of(seen: Pass) -> Tensor:
    """Return which images are right, (N,) on the CPU. Raises UserError when there are no labels or logits."""
    top1_of(seen, PURPOSE)
    assert seen.right_N is not None
    return seen.right_N.cpu()


def inference_pass(
    model: nn.Module, batches: Iterable[Any], logits: Logits | None, statistics: Statistics | None = None
) -> Pass:
    """Run a pass in inference mode, with other estimates if given. The model is restored."""
    with with_statistics(model, statistics or {}):
        model.eval()
        return run_pass(model, batches, PURPOSE, with_labels=True, logits=logits, with_frozen=True)


def _batch_pass(
    model: nn.Module,
    batches: Iterable[Any],
    logits: Logits | None,
    watches: Mapping[str, BatchWatch],
    constants: Mapping[str, nn.Module] | None = None,
) -> Pass:
    """Run a pass with the BN layers alone in training mode, and `constants` set to the batch's statistics."""

    def watch(name: str, num_images: int, num_values: int, mean_C: Tensor, var_C: Tensor) -> None:
        if name in watches:
            watches[name].update(num_images, num_values, mean_C, var_C)
        if constants is not None and name in constants:
            put_estimates(name, constants[name], mean_C, var_C)

    with preserved(model):
        model.eval()
        for layer in batch_norm_layers(model).values():
            layer.train()
        options: dict[str, Any] = {"with_labels": True, "logits": logits, "with_frozen": True}
        return run_pass(model, batches, PURPOSE, adapt=watch, **options)
