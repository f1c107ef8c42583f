"""Segment norm: one differentiable function for GN, IN, LN, ghost BN and BN of channels-last tensors.

In channels-last memory a sample (GN, IN, LN), a ghost group and a whole batch (BN) are each a range of rows
without gaps, so that statistics over any of them, normalisation, affine, residual addition and activation
are a few kernels. An element of GN + ReLU in bf16 costs 6 bytes forward (read for the statistics, read and
written to normalise) and 10 backward; torch's own kernels move about 80 under autocast.
"""

import functools
import importlib
import os
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from suite.kernels import reference
from suite.kernels.segments import Rule, Segments, as_channels_last

Pair = tuple[Tensor, Tensor]


@functools.cache
def kernels_missing() -> str:
    """Return why Triton's kernels cannot be had; empty if they can."""
    try:
        importlib.import_module("suite.kernels.launch")
    except ImportError as error:
        return f"Triton cannot be imported here ({error})"
    return ""


def implementation(device: torch.device) -> ModuleType:
    """Return the module whose functions compute on this device: the kernels, or torch's own operations."""
    is_interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if (device.type == "cpu" and not is_interpreted) or kernels_missing():
        return reference
    from suite.kernels import launch

    return launch


class _SegmentNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_C: Tensor | None,
        bias_C: Tensor | None,
        residual: Tensor | None,
        constants: Pair | None,
        segments: Segments,
        rule: Rule,
    ) -> tuple[Tensor, Tensor, Tensor]:
        compute = implementation(x.device)
        statistics: Pair = compute.moments(x, segments) if constants is None else constants
        y, _ = compute.normalise(x, segments, rule, statistics, (weight_C, bias_C), residual)
        is_kept = residual is not None and rule.rectifies
        ctx.save_for_backward(x, y if is_kept else None, *statistics, weight_C, bias_C)
        ctx.segments, ctx.rule = segments, rule
        ctx.options = {"has_residual": residual is not None, "is_constant": constants is not None}
        ctx.mark_non_differentiable(*statistics)
        ctx.set_materialize_grads(False)
        return y, *statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, *_: object) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 7
        x, y, mean_SG, var_SG, weight_C, bias_C = ctx.saved_tensors
        found = implementation(x.device).gradients(
            as_channels_last(dy),
            x,
            y,
            ctx.segments,
            ctx.rule,
            (mean_SG, var_SG),
            (weight_C, bias_C),
            **ctx.options,
        )
        dweight_C = None if weight_C is None else found.weight_C.to(weight_C.dtype)
        dbias_C = None if bias_C is None else found.bias_C.to(bias_C.dtype)
        return found.x, dweight_C, dbias_C, found.residual, None, None, None


def segment_norm(
    x: Tensor,
    *,
    samples: int,
    groups: int,
    weight_C: Tensor | None = None,
    bias_C: Tensor | None = None,
    residual: Tensor | None = None,
    constants: Pair | None = None,
    rule: Rule | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise x, (N, C) or (N, C, H, W), and return the result with its statistics.

    A unit is a group of C / `groups` channels of `samples` consecutive samples: S = N / `samples` segments
    have (S, `groups`) units. Groups of one channel make it BN (all samples), ghost BN (some) or IN (one);
    one sample with wider groups makes it GN, with one group LN.

    `residual`, of x's shape and type, is added behind weight and bias; `rule` has ε and the activation behind
    that. `constants`: mean and variance, each (S, G), to use in place of x's own, without a gradient.

    Returns y, of x's type and channels-last, and the mean and biased variance (S, G) that were used,
    float32 or for float64 float64. Tensors of another layout are copied first. Gradients are those of first
    order: a second derivative raises RuntimeError. Raises ValueError for other shapes and types.
    """
    segments = Segments.of(x, samples, groups)
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        what = f"{tuple(residual.shape)} of {residual.dtype}"
        raise ValueError(f"segment norm: the residual is {what}, the input {tuple(x.shape)} of {x.dtype}")
    if residual is not None:
        residual = as_channels_last(residual)
    found: tuple[Tensor, Tensor, Tensor] = _SegmentNorm.apply(
        as_channels_last(x), weight_C, bias_C, residual, constants, segments, rule or Rule()
    )
    return found


@torch.no_grad()
def normalise_and_measure(
    x: Tensor,
    estimates: Pair,
    affine: tuple[Tensor | None, Tensor | None],
    residual: Tensor | None,
    rule: Rule,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise x with BN's estimates, (C,), and measure it in the same pass, without a gradient.

    Returns y, and the mean and biased variance of each channel of x, (C,) float64.
    """
    segments = Segments.of(x, len(x), x.shape[1])
    x = as_channels_last(x)
    residual = None if residual is None else as_channels_last(residual)
    mean_C, var_C = estimates
    compute = implementation(x.device)
    statistics = (mean_C[None], var_C[None])
    y, moments = compute.normalise(x, segments, rule, statistics, affine, residual, with_moments=True)
    return y, moments[0][0], moments[1][0]


def update_estimates(
    running: Pair, statistics: Pair, values: int, momentum: float | None, num_batches_tracked: Tensor
) -> None:
    """Let BN's estimates (C,) see the biased statistics (S, C) of S batches in turn, of `values` values each.

    One operation: r' = (1 − m)^k r + Σ m (1 − m)^(k − i) b_i. `momentum` None: the means of all batches.
    """
    compute = implementation(running[0].device)
    compute.update_estimates(running, statistics, values, momentum, num_batches_tracked)
    num_batches_tracked.add_(len(statistics[0]))
