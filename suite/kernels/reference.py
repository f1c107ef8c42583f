"""Segment norm in torch's own operations, with the results of the kernels: for CPUs, and to compare with.

It is no faster than torch's norms. The functions are those of `suite.kernels.launch`.
"""

import torch
from torch import Tensor

from suite.kernels.segments import STATISTICS, Gradients, Rule, Segments


def _units(x: Tensor, segments: Segments) -> Tensor:
    """Return x as (S, R, G, D), D channels of a group, in the type of the statistics."""
    rows = x.permute(0, *range(2, x.dim()), 1).to(STATISTICS[x.dtype])
    return rows.reshape(segments.num, segments.rows, segments.groups, segments.group_channels)


def _as(units_SRGD: Tensor, x: Tensor) -> Tensor:
    """Return units as a tensor with the shape, type and memory of x."""
    N, C, *pixels = x.shape
    rows = units_SRGD.reshape(N, *pixels, C)
    return torch.empty_like(x).copy_(rows.permute(0, rows.dim() - 1, *range(1, rows.dim() - 1)))


def _per_unit(value_SG: Tensor, x_SRGD: Tensor) -> Tensor:
    return value_SG.to(x_SRGD.dtype)[:, None, :, None]


def _per_channel(value_C: Tensor | None, x_SRGD: Tensor, otherwise: float) -> Tensor | float:
    return otherwise if value_C is None else value_C.to(x_SRGD.dtype).view(x_SRGD.shape[2:])


def moments(x: Tensor, segments: Segments) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance, each (S, G)."""
    var_SG, mean_SG = torch.var_mean(_units(x, segments), dim=(1, 3), correction=0)
    return mean_SG, var_SG


def normalise(
    x: Tensor,
    segments: Segments,
    rule: Rule,
    statistics: tuple[Tensor, Tensor],
    affine: tuple[Tensor | None, Tensor | None],
    residual: Tensor | None,
    *,
    with_moments: bool = False,
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Return the normalised tensor, and the moments of x, (1, C) float64, if asked for."""
    x_SRGD = _units(x, segments)
    apart_SRGD = x_SRGD - _per_unit(statistics[0], x_SRGD)
    y_SRGD = apart_SRGD * _rstd(statistics, rule, x_SRGD) * _per_channel(affine[0], x_SRGD, 1.0)
    y_SRGD = y_SRGD + _per_channel(affine[1], x_SRGD, 0.0)
    if residual is not None:
        y_SRGD = y_SRGD + _units(residual, segments)
    if rule.rectifies:
        y_SRGD = y_SRGD.clamp(min=0.0, max=rule.cap)
    found = None
    if with_moments:
        var_SG, mean_SG = torch.var_mean(apart_SRGD, dim=(1, 3), correction=0)
        found = (statistics[0].double() + mean_SG.double(), var_SG.double())
    return _as(y_SRGD, x), found


def _rstd(statistics: tuple[Tensor, Tensor], rule: Rule, x_SRGD: Tensor) -> Tensor:
    return (_per_unit(statistics[1], x_SRGD) + rule.eps).rsqrt()


def gradients(
    dy: Tensor,
    x: Tensor,
    y: Tensor | None,
    segments: Segments,
    rule: Rule,
    statistics: tuple[Tensor, Tensor],
    affine: tuple[Tensor | None, Tensor | None],
    *,
    has_residual: bool,
    is_constant: bool,
) -> Gradients:
    """Return the gradients of `normalise` behind `moments`; `is_constant`: of `normalise` alone."""
    x_SRGD, dz_SRGD = _units(x, segments), _units(dy, segments)
    rstd = _rstd(statistics, rule, x_SRGD)
    normal_SRGD = (x_SRGD - _per_unit(statistics[0], x_SRGD)) * rstd
    weight_GD = _per_channel(affine[0], x_SRGD, 1.0)
    if rule.rectifies:
        y_SRGD = normal_SRGD * weight_GD + _per_channel(affine[1], x_SRGD, 0.0)
        if has_residual:
            assert y is not None
            y_SRGD = _units(y, segments)
        passes = y_SRGD > 0 if rule.cap is None else (y_SRGD > 0) & (y_SRGD < rule.cap)
        dz_SRGD = torch.where(passes, dz_SRGD, 0.0)
    dnormal_SRGD = dz_SRGD * weight_GD
    dx_SRGD = dnormal_SRGD
    if not is_constant:
        dx_SRGD = dx_SRGD - dnormal_SRGD.mean(dim=(1, 3), keepdim=True)
        dx_SRGD = dx_SRGD - normal_SRGD * (dnormal_SRGD * normal_SRGD).mean(dim=(1, 3), keepdim=True)
    return Gradients(
        _as(dx_SRGD * rstd, x),
        _as(dz_SRGD, x) if has_residual else None,
        (dz_SRGD * normal_SRGD).sum(dim=(0, 1)).flatten(),
        dz_SRGD.sum(dim=(0, 1)).flatten(),
    )


def update_estimates(
    running: tuple[Tensor, Tensor],
    statistics: tuple[Tensor, Tensor],
    values: int,
    momentum: float | None,
    num_batches_tracked: Tensor,
) -> None:
    """Move running mean and variance, (C,), by the biased statistics (S, C) of S batches in turn."""
    mean_SC, var_SC = statistics
    var_SC = var_SC * (values / (values - 1))
    for batch, (mean_C, var_C) in enumerate(zip(mean_SC, var_SC, strict=True), start=1):
        share = 1 / (int(num_batches_tracked) + batch) if momentum is None else momentum
        for running_C, value_C in zip(running, (mean_C, var_C), strict=True):
            running_C.lerp_(value_C.to(running_C.dtype), share)
