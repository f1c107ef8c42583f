# mypy: ignore-errors
# Triton compiles these functions; their values are not those that Python's types describe.
"""The Triton kernels of segment norm's gradients; shapes and words are `suite.kernels.triton_kernels`'."""

import triton
import triton.language as tl

from suite.kernels.triton_kernels import SIZES, affine, by_channel, parts, place_of, statistics, tile


@triton.jit
def _through_activation(dy_RC, y_RC, CAP: tl.constexpr):
    """Return the gradient in front of the activation; `y_RC` has the sign of what was activated."""
    dy_RC = tl.where(y_RC <= 0.0, 0.0, dy_RC)
    if CAP is not None:
        dy_RC = tl.where(y_RC >= CAP, 0.0, dy_RC)
    return dy_RC


@triton.jit(do_not_specialize=SIZES)
def gradient_sums(
    dy_ptr,
    x_ptr,
    y_ptr,
    dz_ptr,
    mean_ptr,
    var_ptr,
    weight_ptr,
    bias_ptr,
    dz_sum_ptr,
    dzx_sum_ptr,
    rows,
    rows_per_chunk,
    num_chunks,
    C: tl.constexpr,
    GROUP_C: tl.constexpr,
    EPS: tl.constexpr,
    RECTIFIES: tl.constexpr,
    CAP: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    """Store Σ dz and Σ dz · x̂, (S, K, C), where dz is the gradient in front of the activation.

    With `y_ptr` the activation's sign is that of y, and dz is stored, which is the residual's gradient;
    without, it is computed again from x, which spares a read of y.
    """
    segment, count, c, start, place = place_of(rows, rows_per_chunk, num_chunks, C, BLOCK_C)
    mean_C, rstd_C = statistics(mean_ptr, var_ptr, segment, c, C, GROUP_C, EPS, ACC)
    weight_C, bias_C = affine(weight_ptr, bias_ptr, c, C, BLOCK_C, ACC)
    sum_RC = tl.zeros((BLOCK_R, BLOCK_C), ACC)
    sum_x_RC = tl.zeros((BLOCK_R, BLOCK_C), ACC)
    for row in range(0, count, BLOCK_R):
        offsets, is_there = tile(row, count, c, C, BLOCK_R)
        dz_RC = tl.load(dy_ptr + start + offsets, mask=is_there, other=0.0).to(ACC)
        apart_RC = tl.load(x_ptr + start + offsets, mask=is_there, other=0.0).to(ACC) - mean_C[None, :]
        if RECTIFIES:
            if y_ptr is not None:
                y_RC = tl.load(y_ptr + start + offsets, mask=is_there, other=0.0).to(ACC)
            else:
                y_RC = apart_RC * (weight_C * rstd_C)[None, :] + bias_C[None, :]
            dz_RC = _through_activation(dz_RC, y_RC, CAP)
            if dz_ptr is not None:
                tl.store(dz_ptr + start + offsets, dz_RC.to(dz_ptr.dtype.element_ty), mask=is_there)
        sum_RC += dz_RC
        sum_x_RC += dz_RC * apart_RC
    tl.store(dz_sum_ptr + place, tl.sum(sum_RC, 0), mask=c < C)
    tl.store(dzx_sum_ptr + place, tl.sum(sum_x_RC, 0) * rstd_C, mask=c < C)


@triton.jit(do_not_specialize=SIZES)
def merge_sums(
    dz_sum_ptr,
    dzx_sum_ptr,
    weight_ptr,
    unit_dz_ptr,
    unit_dzx_ptr,
    rows,
    rows_per_chunk,
    num_chunks,
    C: tl.constexpr,
    GROUP_C: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_E: tl.constexpr,
    ACC: tl.constexpr,
):
    """Store the means over each unit of weight · dz and weight · dz · x̂, (S, G)."""
    segment = tl.program_id(0)
    g = tl.program_id(1) * BLOCK_G + tl.arange(0, BLOCK_G)
    dz_G = tl.zeros((BLOCK_G,), ACC)
    dzx_G = tl.zeros((BLOCK_G,), ACC)
    for first in range(0, num_chunks * GROUP_C, BLOCK_E):
        e = first + tl.arange(0, BLOCK_E)
        offsets, is_there = parts(segment, e, g, num_chunks, C, GROUP_C)
        dz_GE = tl.load(dz_sum_ptr + offsets, mask=is_there, other=0.0)
        dzx_GE = tl.load(dzx_sum_ptr + offsets, mask=is_there, other=0.0)
        if weight_ptr is not None:
            c = (g * GROUP_C)[:, None] + (e % GROUP_C)[None, :]
            weight_GE = tl.load(weight_ptr + c, mask=is_there, other=0.0).to(ACC)
            dz_GE *= weight_GE
            dzx_GE *= weight_GE
        dz_G += tl.sum(dz_GE, 1)
        dzx_G += tl.sum(dzx_GE, 1)
    place = segment * (C // GROUP_C) + g
    values = rows.to(ACC) * GROUP_C
    tl.store(unit_dz_ptr + place, dz_G / values, mask=g < C // GROUP_C)
    tl.store(unit_dzx_ptr + place, dzx_G / values, mask=g < C // GROUP_C)


@triton.jit(do_not_specialize=SIZES)
def input_gradient(
    dy_ptr,
    x_ptr,
    dx_ptr,
    mean_ptr,
    var_ptr,
    weight_ptr,
    bias_ptr,
    unit_dz_ptr,
    unit_dzx_ptr,
    rows,
    rows_per_chunk,
    num_chunks,
    C: tl.constexpr,
    GROUP_C: tl.constexpr,
    EPS: tl.constexpr,
    RECTIFIES: tl.constexpr,
    CAP: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    """Store dx = (weight · dz − mean(weight · dz) − x̂ · mean(weight · dz · x̂)) / σ, means over the unit.

    `dy_ptr`: dz itself where `RECTIFIES` is false. Without `unit_dz_ptr` the statistics are constants, and
    the two means are left out.
    """
    segment, count, c, start, _ = place_of(rows, rows_per_chunk, num_chunks, C, BLOCK_C)
    mean_C, rstd_C = statistics(mean_ptr, var_ptr, segment, c, C, GROUP_C, EPS, ACC)
    weight_C, bias_C = affine(weight_ptr, bias_ptr, c, C, BLOCK_C, ACC)
    scale_C = weight_C * rstd_C
    if unit_dz_ptr is not None:
        units = segment * (C // GROUP_C) + c // GROUP_C
        shift_C = by_channel(unit_dz_ptr, units, c, C, ACC) * rstd_C
        slope_C = by_channel(unit_dzx_ptr, units, c, C, ACC) * rstd_C * rstd_C
    for row in range(0, count, BLOCK_R):
        offsets, is_there = tile(row, count, c, C, BLOCK_R)
        dz_RC = tl.load(dy_ptr + start + offsets, mask=is_there, other=0.0).to(ACC)
        if RECTIFIES or unit_dz_ptr is not None:
            apart_RC = tl.load(x_ptr + start + offsets, mask=is_there, other=0.0).to(ACC) - mean_C[None, :]
        if RECTIFIES:
            dz_RC = _through_activation(dz_RC, apart_RC * scale_C[None, :] + bias_C[None, :], CAP)
        dx_RC = dz_RC * scale_C[None, :]
        if unit_dz_ptr is not None:
            dx_RC -= shift_C[None, :] + apart_RC * slope_C[None, :]
        tl.store(dx_ptr + start + offsets, dx_RC.to(dx_ptr.dtype.element_ty), mask=is_there)
