"""Norm layers that compute with segment norm, with torch's parameters and buffers: BN, ghost BN, GN, LN, IN.

A layer is fused by changing its class, so that its parameters, buffers, hooks and names stay. It takes two
more arguments, the residual and the activation behind it. Inputs that the kernels do not take are computed
by the class that it was, which is said once.

Shape suffixes: N samples, C channels, S segments; `*` is any number of further dimensions, such as pixels.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from suite.kernels.segment_norm import normalise_and_measure, segment_norm, update_estimates
from suite.kernels.segments import STATISTICS, Rule, is_channels_last
from suite.models.batch_norm import GhostBatchNorm2d
from suite.models.norms.group_norm import GroupNorm

log = logging.getLogger("shiftbench")

# Takes an input (N, C, *) of a layer in inference mode, and its mean and biased variance (C,) if the layer
# has measured them.
TakeMoments = Callable[[Tensor, tuple[Tensor, Tensor] | None], None]
_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {"identity": lambda x: x, "relu": F.relu, "relu6": F.relu6}


def applied(out: Tensor, residual: Tensor | None, activation: str) -> Tensor:
    """Add the residual, and activate, in torch's own operations."""
    return _PLAIN[activation](out if residual is None else out + residual)


@functools.cache
def _say_once(kind: str, why: str) -> None:
    log.warning("%s: not by the fused kernels: %s", kind, why)


def forget_what_was_said() -> None:
    """Let the next run of this process say again which of its inputs the kernels do not take."""
    _say_once.cache_clear()


def why_native(x: Tensor, residual: Tensor | None, samples: int) -> str | None:
    """Return why segment norm does not take this input, in segments of `samples` samples; None if it does."""
    if type(x) not in (Tensor, nn.Parameter) or torch.compiler.is_compiling():
        return f"the input is a {type(x).__name__}, or the code is compiled"
    if x.dim() not in (2, 4) or x.dtype not in STATISTICS or x.numel() == 0:
        return f"the input is {tuple(x.shape)} of {x.dtype}"
    if not is_channels_last(x):
        return "the input is not channels-last in memory (recipe.channels_last lets it be)"
    if len(x) % samples:
        return f"groups of {samples} samples do not divide a batch of {len(x)}"
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        return "what is added to the norm's output has another shape or type"
    return None


class FusedNorm(nn.Module):
    """Base of the fused layers. `_computed` computes what `why_native` has nothing against."""

    def forward(self, input: Tensor, residual: Tensor | None = None, activation: str = "identity") -> Tensor:
        """Return act(norm(input) + residual), of the input's type, (N, C) or (N, C, H, W) as the input."""
        why = why_native(input, residual, self._samples(input))
        if why is not None:
            _say_once(type(self).__name__, why)
            return applied(self._native(input), residual, activation)
        return self._computed(input, residual, activation)

    def _native(self, input: Tensor) -> Tensor:
        return super().forward(input)  # type: ignore[no-any-return]

    def _samples(self, input: Tensor) -> int:
        return 1

    def _computed(self, input: Tensor, residual: Tensor | None, activation: str) -> Tensor:
        """Compute with segment norm. Each kind of norm defines it."""
        raise NotImplementedError


class _FusedBatchNorm(FusedNorm, _BatchNorm):
    """BN over all samples of a batch, or over as many as `_samples` says.

    `take_moments`: called in inference mode with each input, and with its moments, which then cost no further
    read. Without it the layer measures nothing there. `when_reached`: called where the network's own code
    calls the layer, which computes later if it waits for a residual.
    """

    take_moments: TakeMoments | None = None
    when_reached: Callable[[], object] | None = None

    def _samples(self, input: Tensor) -> int:
        return max(1, len(input))

    def _uses_batch(self) -> bool:
        return self.training or self.running_mean is None

    def _native(self, input: Tensor) -> Tensor:
        if self.take_moments is not None and not self._uses_batch():
            self.take_moments(input, None)
        return super()._native(input)

    def _computed(self, input: Tensor, residual: Tensor | None, activation: str) -> Tensor:
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        rule = Rule(self.eps, activation)
        affine = (self.weight, self.bias) if self.affine else (None, None)
        if not self._uses_batch():
            return self._by_estimates(input, residual, rule, affine)
        samples = self._samples(input) if self.training else len(input)
        values = samples * (input.numel() // (len(input) * self.num_features))
        if values == 1:
            raise ValueError(f"Expected more than 1 value per channel when training, got input {input.shape}")
        y, *statistics = segment_norm(
            input,
            samples=samples,
            groups=self.num_features,
            weight_C=affine[0],
            bias_C=affine[1],
            residual=residual,
            rule=rule,
        )
        if self.training and self.running_mean is not None:
            self._update(statistics[0], statistics[1], values)
        return y

    @torch.no_grad()
    def _update(self, mean_SC: Tensor, var_SC: Tensor, values: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        running = (self.running_mean, self.running_var)
        update_estimates(running, (mean_SC, var_SC), values, self.momentum, self.num_batches_tracked)

    def _by_estimates(
        self, input: Tensor, residual: Tensor | None, rule: Rule, affine: tuple[Tensor | None, Tensor | None]
    ) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        estimates = (self.running_mean, self.running_var)
        if self.take_moments is not None:
            needs_gradient = torch.is_grad_enabled() and input.requires_grad
            if not needs_gradient:
                y, mean_C, var_C = normalise_and_measure(input, estimates, affine, residual, rule)
                self.take_moments(input, (mean_C, var_C))
                return y
            self.take_moments(input, None)
        y, _, _ = segment_norm(
            input,
            samples=len(input),
            groups=self.num_features,
            weight_C=affine[0],
            bias_C=affine[1],
            residual=residual,
            constants=(estimates[0][None], estimates[1][None]),
            rule=rule,
        )
        return y


class FusedBatchNorm2d(_FusedBatchNorm, nn.BatchNorm2d):
    """BN of inputs (N, C, H, W)."""


class FusedBatchNorm1d(_FusedBatchNorm, nn.BatchNorm1d):
    """BN of inputs (N, C); inputs (N, C, L) are computed by torch."""


class FusedGhostBatchNorm2d(_FusedBatchNorm, GhostBatchNorm2d):
    """BN in groups of `norm_batch_size` samples, in as many operations as one group takes."""

    def _samples(self, input: Tensor) -> int:
        return min(self.norm_batch_size, max(1, len(input))) if self.training else max(1, len(input))


class FusedGroupNorm(FusedNorm, GroupNorm):
    """GN of inputs (N, C) or (N, C, H, W); with one group LN, with C groups IN."""

    def _computed(self, input: Tensor, residual: Tensor | None, activation: str) -> Tensor:
        rule = Rule(self.eps, activation)
        options: dict[str, Any] = {"weight_C": self.weight, "bias_C": self.bias, "residual": residual}
        y, _, _ = segment_norm(input, samples=1, groups=self.num_groups, rule=rule, **options)
        return y


class FusedInstanceNorm2d(FusedNorm, nn.InstanceNorm2d):
    """IN of inputs (N, C, H, W) without running statistics."""

    def _computed(self, input: Tensor, residual: Tensor | None, activation: str) -> Tensor:
        self._check_input_dim(input)
        rule = Rule(self.eps, activation)
        options: dict[str, Any] = {"weight_C": self.weight, "bias_C": self.bias, "residual": residual}
        y, _, _ = segment_norm(input, samples=1, groups=self.num_features, rule=rule, **options)
        return y


FUSED: dict[type[nn.Module], type[FusedNorm]] = {
    nn.BatchNorm2d: FusedBatchNorm2d,
    nn.BatchNorm1d: FusedBatchNorm1d,
    GhostBatchNorm2d: FusedGhostBatchNorm2d,
    nn.GroupNorm: FusedGroupNorm,
    GroupNorm: FusedGroupNorm,
    nn.InstanceNorm2d: FusedInstanceNorm2d,
}


def fuse_layer(layer: nn.Module) -> str | None:
    """Change a norm's class to the fused one. Return why it stays as it is, or None."""
    fused = FUSED.get(type(layer))
    if fused is None:
        return f"{type(layer).__name__} has no fused form"
    if dict(layer.named_children()):
        return f"{type(layer).__name__} has layers of its own behind it"
    if isinstance(layer, nn.InstanceNorm2d) and layer.track_running_stats:
        return "an instance norm with running statistics has no fused form"
    layer.__class__ = fused
    return None
