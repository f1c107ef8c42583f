# mypy: ignore-errors
# Triton compiles these functions; their values are not those that Python's types describe.
"""The Triton kernels of segment norm: statistics, normalisation, and the gradients of both.

Channels-last memory is a matrix of rows (pixels of samples) × C channels. A segment is R consecutive rows,
a unit of a norm the GROUP_C consecutive channels of a group in a segment. Shape suffixes: S segments, K
chunks of a segment's rows, R rows, C channels, G groups, E = K · GROUP_C parts of a unit. A program of the
large kernels takes a chunk of a segment and BLOCK_C channels, tile by tile; what it sums goes to partial
results (S, K, C), and a small kernel merges them. There are no atomic operations: the same input gives the
same bits.

ACC is the type of all arithmetic and of all statistics: float32, or float64 where the input is float64.
Sizes that decide the width of memory accesses are compile-time constants: 16 bytes a thread where a row of
C channels is a multiple of 16 bytes, otherwise the largest power of two that divides the row.
"""

import triton
import triton.language as tl

SIZES = ["rows", "rows_per_chunk", "num_chunks"]


@triton.jit
def place_of(rows, rows_per_chunk, num_chunks, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return this program's segment, number of rows, channels, first element, place among the partials."""
    program = tl.program_id(0)
    segment = program // num_chunks
    first = (program % num_chunks) * rows_per_chunk
    count = tl.minimum(rows - first, rows_per_chunk)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    start = (segment.to(tl.int64) * rows + first) * C
    return segment, count, c, start, program * C + c


@triton.jit
def tile(row, count, c, C: tl.constexpr, BLOCK_R: tl.constexpr):
    """Return the offsets of a tile that begins with a row of the chunk, and which of it exist."""
    r = row + tl.arange(0, BLOCK_R)
    return r[:, None] * C + c[None, :], (r < count)[:, None] & (c < C)[None, :]


@triton.jit
def by_channel(pointer, offsets, c, C: tl.constexpr, ACC: tl.constexpr):
    return tl.load(pointer + offsets, mask=c < C, other=0.0).to(ACC)


@triton.jit
def _add_to_moments(mean_RC, squares_RC, value_RC, is_there_RC, number):
    """Add one value to each lane of the tile (Welford 1962); `number`: how many full lanes then have."""
    delta_RC = tl.where(is_there_RC, value_RC - mean_RC, 0.0)
    mean_RC += delta_RC * (1.0 / number)
    squares_RC += delta_RC * (value_RC - mean_RC)
    return mean_RC, squares_RC


@triton.jit
def _store_moments(
    mean_ptr,
    squares_ptr,
    place,
    mean_RC,
    squares_RC,
    count,
    c,
    C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    ACC: tl.constexpr,
):
    """Merge the lanes of each channel (Chan, Golub, LeVeque 1979), and store the chunk's moments."""
    of_lane_RC = ((count - tl.arange(0, BLOCK_R) + BLOCK_R - 1) // BLOCK_R).to(ACC)[:, None]
    mean_C = tl.sum(mean_RC * of_lane_RC, 0) / count.to(ACC)
    apart_RC = mean_RC - mean_C[None, :]
    tl.store(mean_ptr + place, mean_C, mask=c < C)
    tl.store(squares_ptr + place, tl.sum(squares_RC + of_lane_RC * apart_RC * apart_RC, 0), mask=c < C)


@triton.jit(do_not_specialize=SIZES)
def moments(
    x_ptr,
    mean_ptr,
    squares_ptr,
    rows,
    rows_per_chunk,
    num_chunks,
    C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    """Store mean and centred sum of squares, (S, K, C), of each channel in each chunk."""
    _, count, c, start, place = place_of(rows, rows_per_chunk, num_chunks, C, BLOCK_C)
    mean_RC = tl.zeros((BLOCK_R, BLOCK_C), ACC)
    squares_RC = tl.zeros((BLOCK_R, BLOCK_C), ACC)
    number = tl.full((), 0.0, ACC)
    for row in range(0, count, BLOCK_R):
        offsets, is_there = tile(row, count, c, C, BLOCK_R)
        x_RC = tl.load(x_ptr + start + offsets, mask=is_there, other=0.0).to(ACC)
        number += 1.0
        mean_RC, squares_RC = _add_to_moments(mean_RC, squares_RC, x_RC, is_there, number)
    _store_moments(mean_ptr, squares_ptr, place, mean_RC, squares_RC, count, c, C, BLOCK_R, ACC)


@triton.jit
def parts(segment, e, g, num_chunks, C: tl.constexpr, GROUP_C: tl.constexpr):
    """Return the offsets (G, E) of a unit's parts in the partials, and which of them exist."""
    row_E = (segment * num_chunks + e // GROUP_C) * C + e % GROUP_C
    is_there = (e < num_chunks * GROUP_C)[None, :] & (g < C // GROUP_C)[:, None]
    return row_E[None, :] + (g * GROUP_C)[:, None], is_there


@triton.jit(do_not_specialize=SIZES)
def merge_moments(
    mean_ptr,
    squares_ptr,
    offset_ptr,
    unit_mean_ptr,
    unit_var_ptr,
    rows,
    rows_per_chunk,
    num_chunks,
    C: tl.constexpr,
    GROUP_C: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_E: tl.constexpr,
    ACC: tl.constexpr,
):
    """Merge the chunks and channels of each unit: store mean and biased variance, (S, G).

    `offset_ptr`, (G,), is added to the mean in the type in which the means are stored.
    """
    segment = tl.program_id(0)
    g = tl.program_id(1) * BLOCK_G + tl.arange(0, BLOCK_G)
    number = tl.full((), 0.0, ACC)
    mean_G = tl.zeros((BLOCK_G,), ACC)
    squares_G = tl.zeros((BLOCK_G,), ACC)
    for first in range(0, num_chunks * GROUP_C, BLOCK_E):
        e = first + tl.arange(0, BLOCK_E)
        offsets, is_there = parts(segment, e, g, num_chunks, C, GROUP_C)
        rows_E = tl.minimum(rows - (e // GROUP_C) * rows_per_chunk, rows_per_chunk)
        n_E = tl.where(e < num_chunks * GROUP_C, rows_E, 0).to(ACC)
        mean_GE = tl.load(mean_ptr + offsets, mask=is_there, other=0.0)
        squares_GE = tl.load(squares_ptr + offsets, mask=is_there, other=0.0)
        n = tl.sum(n_E, 0)
        new_mean_G = tl.sum(mean_GE * n_E[None, :], 1) / n
        apart_GE = mean_GE - new_mean_G[:, None]
        delta_G = new_mean_G - mean_G
        total = number + n
        squares_G += tl.sum(squares_GE + n_E[None, :] * apart_GE * apart_GE, 1)
        squares_G += delta_G * delta_G * (number * n / total)
        mean_G += delta_G * (n / total)
        number = total
    place = segment * (C // GROUP_C) + g
    mean_G = mean_G.to(unit_mean_ptr.dtype.element_ty)
    if offset_ptr is not None:
        mean_G += by_channel(offset_ptr, g, g, C // GROUP_C, unit_mean_ptr.dtype.element_ty)
    var_G = (squares_G / number).to(unit_var_ptr.dtype.element_ty)
    tl.store(unit_mean_ptr + place, mean_G, mask=g < C // GROUP_C)
    tl.store(unit_var_ptr + place, var_G, mask=g < C // GROUP_C)


@triton.jit
def affine(weight_ptr, bias_ptr, c, C: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr):
    weight_C = tl.full((BLOCK_C,), 1.0, ACC)
    if weight_ptr is not None:
        weight_C = by_channel(weight_ptr, c, c, C, ACC)
    bias_C = tl.zeros((BLOCK_C,), ACC)
    if bias_ptr is not None:
        bias_C = by_channel(bias_ptr, c, c, C, ACC)
    return weight_C, bias_C


@triton.jit
def statistics(
    mean_ptr,
    var_ptr,
    segment,
    c,
    C: tl.constexpr,
    GROUP_C: tl.constexpr,
    EPS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Return the mean and 1 / σ of each channel's unit."""
    units = segment * (C // GROUP_C) + c // GROUP_C
    mean_C = by_channel(mean_ptr, units, c, C, ACC)
    return mean_C, tl.rsqrt(by_channel(var_ptr, units, c, C, ACC) + EPS)


@triton.jit(do_not_specialize=SIZES)
def normalise(
    x_ptr,
    residual_ptr,
    y_ptr,
    mean_ptr,
    var_ptr,
    weight_ptr,
    bias_ptr,
    partial_mean_ptr,
    partial_squares_ptr,
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
    """Store act((x − mean) / σ · weight + bias + residual).

    Where `partial_mean_ptr` is given, also the moments of x − mean, (S, K, C), of the x that is read anyway.
    """
    segment, count, c, start, place = place_of(rows, rows_per_chunk, num_chunks, C, BLOCK_C)
    mean_C, rstd_C = statistics(mean_ptr, var_ptr, segment, c, C, GROUP_C, EPS, ACC)
    weight_C, bias_C = affine(weight_ptr, bias_ptr, c, C, BLOCK_C, ACC)
    scale_C = weight_C * rstd_C
    if partial_mean_ptr is not None:
        centre_RC = tl.zeros((BLOCK_R, BLOCK_C), ACC)
        squares_RC = tl.zeros((BLOCK_R, BLOCK_C), ACC)
        number = tl.full((), 0.0, ACC)
    for row in range(0, count, BLOCK_R):
        offsets, is_there = tile(row, count, c, C, BLOCK_R)
        apart_RC = tl.load(x_ptr + start + offsets, mask=is_there, other=0.0).to(ACC) - mean_C[None, :]
        if partial_mean_ptr is not None:
            number += 1.0
            centre_RC, squares_RC = _add_to_moments(centre_RC, squares_RC, apart_RC, is_there, number)
        y_RC = apart_RC * scale_C[None, :] + bias_C[None, :]
        if residual_ptr is not None:
            y_RC += tl.load(residual_ptr + start + offsets, mask=is_there, other=0.0).to(ACC)
        if RECTIFIES:  # a NaN stays one
            y_RC = tl.where(y_RC < 0.0, 0.0, y_RC)
            if CAP is not None:
                y_RC = tl.where(y_RC > CAP, CAP, y_RC)
        tl.store(y_ptr + start + offsets, y_RC.to(y_ptr.dtype.element_ty), mask=is_there)
    if partial_mean_ptr is not None:
        _store_moments(
            partial_mean_ptr, partial_squares_ptr, place, centre_RC, squares_RC, count, c, C, BLOCK_R, ACC
        )


@triton.jit(do_not_specialize=["num_segments", "values"])
def update_estimates(
    mean_ptr,
    var_ptr,
    running_mean_ptr,
    running_var_ptr,
    tracked_ptr,
    num_segments,
    values,
    C: tl.constexpr,
    MOMENTUM: tl.constexpr,
    LOG2_KEPT: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    """Move the estimates (C,) by the statistics (S, C) of k batches of `values` values a channel, in turn.

    r' = (1 − m)^k r + Σ m (1 − m)^(k − i) b_i, with the unbiased variance. Without a momentum they become the
    mean of all batches, of which `tracked_ptr` counts those before. `LOG2_KEPT` is log2(1 − m).
    """
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    k = num_segments.to(ACC)
    if MOMENTUM is None:
        before = tl.load(tracked_ptr).to(ACC)
        left = before / (before + k)
    else:
        left = tl.exp2(k * LOG2_KEPT)
    mean_C = by_channel(running_mean_ptr, c, c, C, ACC) * left
    var_C = by_channel(running_var_ptr, c, c, C, ACC) * left
    unbiased = values.to(ACC) / (values.to(ACC) - 1.0)
    for first in range(0, num_segments, BLOCK_S):
        s = first + tl.arange(0, BLOCK_S)
        if MOMENTUM is None:
            weight_S = tl.zeros((BLOCK_S,), ACC) + 1.0 / (before + k)
        else:
            weight_S = tl.exp2(tl.maximum(k - 1.0 - s.to(ACC), 0.0) * LOG2_KEPT) * MOMENTUM
        offsets = s[:, None] * C + c[None, :]
        is_there = (s < num_segments)[:, None] & (c < C)[None, :]
        mean_SC = tl.load(mean_ptr + offsets, mask=is_there, other=0.0)
        var_SC = tl.load(var_ptr + offsets, mask=is_there, other=0.0)
        mean_C += tl.sum(weight_S[:, None] * mean_SC, 0)
        var_C += tl.sum(weight_S[:, None] * var_SC, 0) * unbiased
    tl.store(running_mean_ptr + c, mean_C.to(running_mean_ptr.dtype.element_ty), mask=c < C)
    tl.store(running_var_ptr + c, var_C.to(running_var_ptr.dtype.element_ty), mask=c < C)
