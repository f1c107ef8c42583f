"""Launches the Triton kernels of segment norm: their grids, blocks and buffers.

Tensors are given as `suite.kernels.segments` describes them, channels-last and without gaps. On the meta
device nothing is computed, but the launches are those of a GPU: `recorded` collects them, to be compiled or
counted.
"""

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from suite.kernels import triton_gradients as backward
from suite.kernels import triton_kernels as kernels
from suite.kernels.segments import STATISTICS, Gradients, Rule, Segments

VECTOR_BYTES = 16  # the widest access of a thread
NUM_WARPS = 4
OPTIONS = {"num_warps": NUM_WARPS, "enable_fp_fusion": True}
MIN_TILES = 8  # of a chunk, so that writing its partial sums costs little beside reading it
MERGED_AT_ONCE = 2048
_ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


@dataclass(frozen=True)
class Machine:
    """How work is divided: `programs` keep the device busy, and a tile has `tile_bytes` of the input."""

    programs: int
    tile_bytes: int = 2 * VECTOR_BYTES * 32 * NUM_WARPS
    tile_channels: int = 64


PER_MULTIPROCESSOR = 8
H100 = Machine(132 * PER_MULTIPROCESSOR)
INTERPRETER = Machine(programs=1, tile_bytes=2**17, tile_channels=2**12)  # its time goes by programs


def machine_of(device: torch.device) -> Machine:
    """Return how work is divided on a device; the meta device gets the division of an H100."""
    if device.type == "cuda":
        return _gpu(device)
    return INTERPRETER if device.type == "cpu" else H100


@functools.cache
def _gpu(device: torch.device) -> Machine:
    return Machine(torch.cuda.get_device_properties(device).multi_processor_count * PER_MULTIPROCESSOR)


@dataclass(frozen=True)
class Launch:
    """A launch of a kernel: its tensors and sizes by name, and its compile-time constants."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    constants: dict[str, Any]

    @property
    def name(self) -> str:
        name: str = self.kernel.__name__
        return name

    @property
    def device(self) -> torch.device:
        return next(value.device for value in self.arguments.values() if isinstance(value, Tensor))


_recorders: list[list[Launch]] = []


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Collect the launches on the meta device meanwhile."""
    launches: list[Launch] = []
    _recorders.append(launches)
    try:
        yield launches
    finally:
        _recorders.pop()


def _run(launch: Launch) -> None:
    device = launch.device
    if device.type == "meta":
        for launches in _recorders:
            launches.append(launch)
    elif device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            _start(launch)
    else:
        _start(launch)


def _start(launch: Launch) -> None:
    launch.kernel[launch.grid](**launch.arguments, **launch.constants, **OPTIONS)


class _Plan:
    """The division of one tensor's segments into chunks and tiles."""

    def __init__(self, x: Tensor, segments: Segments) -> None:
        machine = machine_of(x.device)
        self.segments = segments
        channels = segments.channels
        self.block_c = min(triton.next_power_of_2(channels), machine.tile_channels)
        tile = machine.tile_bytes // x.element_size()
        self.block_r = max(1, min(tile // self.block_c, triton.next_power_of_2(segments.rows)))
        self.blocks_of_c = math.ceil(channels / self.block_c)
        wanted = math.ceil(machine.programs / (segments.num * self.blocks_of_c))
        most = math.ceil(segments.rows / (MIN_TILES * self.block_r))
        per_chunk = math.ceil(segments.rows / max(1, min(wanted, most)))
        self.rows_per_chunk = math.ceil(per_chunk / self.block_r) * self.block_r
        self.num_chunks = math.ceil(segments.rows / self.rows_per_chunk)
        self.dtype = STATISTICS[x.dtype]
        self.device = x.device

    def partials(self) -> tuple[Tensor, Tensor]:
        """Return two buffers (S, K, C)."""
        shape = (2, self.segments.num, self.num_chunks, self.segments.channels)
        both = torch.empty(shape, dtype=self.dtype, device=self.device)
        return both[0], both[1]

    def units(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Return two buffers (S, G)."""
        shape = (2, self.segments.num, self.segments.groups)
        both = torch.empty(shape, dtype=dtype or self.dtype, device=self.device)
        return both[0], both[1]

    @property
    def _sizes(self) -> dict[str, int]:
        return {
            "rows": self.segments.rows,
            "rows_per_chunk": self.rows_per_chunk,
            "num_chunks": self.num_chunks,
        }

    def over_rows(self, kernel: Any, tensors: dict[str, Tensor | None], **constants: Any) -> None:
        """Run a kernel that reads whole tensors: a program for each chunk and block of channels."""
        blocks = {"BLOCK_R": self.block_r, "BLOCK_C": self.block_c, "ACC": _ACC[self.dtype]}
        grid = (self.segments.num * self.num_chunks, self.blocks_of_c)
        constants = {"C": self.segments.channels, **constants, **blocks}
        _run(Launch(kernel, grid, {**tensors, **self._sizes}, constants))

    def over_units(self, kernel: Any, tensors: dict[str, Tensor | None]) -> None:
        """Run a kernel that merges the chunks and channels of each unit."""
        groups, width = self.segments.groups, self.segments.group_channels
        block_e = min(triton.next_power_of_2(self.num_chunks * width), MERGED_AT_ONCE // 8)
        block_g = min(triton.next_power_of_2(groups), MERGED_AT_ONCE // block_e)
        constants = {"C": self.segments.channels, "GROUP_C": width, "ACC": _ACC[self.dtype]}
        blocks = {"BLOCK_G": block_g, "BLOCK_E": block_e}
        grid = (self.segments.num, math.ceil(groups / block_g))
        _run(Launch(kernel, grid, {**tensors, **self._sizes}, {**constants, **blocks}))

    def merged(
        self, partials: tuple[Tensor, Tensor], offset_G: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return mean and biased variance, (S, G), from the chunks' moments.

        `offset_G`: what was subtracted from the values; with it they are in float64.
        """
        mean_SG, var_SG = self.units(None if offset_G is None else torch.float64)
        tensors = {"mean_ptr": partials[0], "squares_ptr": partials[1], "offset_ptr": offset_G}
        self.over_units(kernels.merge_moments, {**tensors, "unit_mean_ptr": mean_SG, "unit_var_ptr": var_SG})
        return mean_SG, var_SG


def moments(x: Tensor, segments: Segments) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance, each (S, G), in float32, or in float64 for float64."""
    plan = _Plan(x, segments)
    partials = plan.partials()
    plan.over_rows(kernels.moments, {"x_ptr": x, "mean_ptr": partials[0], "squares_ptr": partials[1]})
    return plan.merged(partials)


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
    """Return act((x − mean) / √(var + ε) · weight + bias + residual), of x's type.

    `statistics`: mean and biased variance, (S, G); `affine`: weight and bias, (C,). `with_moments`, for one
    segment of groups of one channel: also the mean and biased variance of x, (1, C) float64, which cost no
    further read. They are computed about the given mean, so that a mean far from zero costs no digits.
    """
    plan = _Plan(x, segments)
    y = torch.empty_like(x)
    partials = plan.partials() if with_moments else (None, None)
    tensors = {"x_ptr": x, "residual_ptr": residual, "y_ptr": y, **_norm_arguments(statistics, affine)}
    tensors |= {"partial_mean_ptr": partials[0], "partial_squares_ptr": partials[1]}
    plan.over_rows(kernels.normalise, tensors, **_norm_constants(segments, rule))
    if partials[0] is None or partials[1] is None:
        return y, None
    return y, plan.merged((partials[0], partials[1]), statistics[0][0])


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
    """Return the gradients of `normalise` behind `moments`; `is_constant`: of `normalise` alone.

    `y`: what `normalise` returned, needed where there are both a residual and an activation.
    """
    plan = _Plan(x, segments)
    dz_sum_SKC, dzx_sum_SKC = plan.partials()
    dz = torch.empty_like(x) if has_residual and rule.rectifies else None
    norm, constants = _norm_arguments(statistics, affine), _norm_constants(segments, rule)
    tensors = {"dy_ptr": dy, "x_ptr": x, "y_ptr": y if dz is not None else None, "dz_ptr": dz, **norm}
    tensors |= {"dz_sum_ptr": dz_sum_SKC, "dzx_sum_ptr": dzx_sum_SKC}
    plan.over_rows(backward.gradient_sums, tensors, **constants)
    units: tuple[Tensor | None, Tensor | None] = (None, None)
    if not is_constant:
        units = plan.units()
        tensors = {"dz_sum_ptr": dz_sum_SKC, "dzx_sum_ptr": dzx_sum_SKC, "weight_ptr": affine[0]}
        plan.over_units(backward.merge_sums, {**tensors, "unit_dz_ptr": units[0], "unit_dzx_ptr": units[1]})
    dx = torch.empty_like(x)
    tensors = {"dy_ptr": dy if dz is None else dz, "x_ptr": x, "dx_ptr": dx, **norm}
    tensors |= {"unit_dz_ptr": units[0], "unit_dzx_ptr": units[1]}
    if dz is not None:  # its activation is behind it
        constants |= {"RECTIFIES": False}
    plan.over_rows(backward.input_gradient, tensors, **constants)
    sums_2C = torch.stack((dzx_sum_SKC, dz_sum_SKC)).sum(dim=(1, 2))
    return Gradients(dx, (dy if dz is None else dz) if has_residual else None, sums_2C[0], sums_2C[1])


def update_estimates(
    running: tuple[Tensor, Tensor],
    statistics: tuple[Tensor, Tensor],
    values: int,
    momentum: float | None,
    num_batches_tracked: Tensor,
) -> None:
    """Move running mean and variance, (C,), by the biased statistics (S, C) of S batches in turn.

    `values`: of a channel in a batch. `momentum` None: the estimates become the means of all batches, of
    which `num_batches_tracked` counts those before.
    """
    mean_SC, var_SC = statistics
    num, channels = mean_SC.shape
    tensors = {"mean_ptr": mean_SC, "var_ptr": var_SC, "tracked_ptr": num_batches_tracked}
    tensors |= {"running_mean_ptr": running[0], "running_var_ptr": running[1]}
    kept = 1 - (momentum or 0)
    constants = {
        "C": channels,
        "MOMENTUM": momentum,
        "LOG2_KEPT": math.log2(kept) if kept > 0 else -1e4,
        "BLOCK_S": min(triton.next_power_of_2(num), 16),
        "BLOCK_C": min(triton.next_power_of_2(channels), 64),
        "ACC": _ACC[mean_SC.dtype],
    }
    grid = (math.ceil(channels / constants["BLOCK_C"]),)
    sizes = {"num_segments": num, "values": values}
    _run(Launch(kernels.update_estimates, grid, {**tensors, **sizes}, constants))


def _norm_arguments(
    statistics: tuple[Tensor, Tensor], affine: tuple[Tensor | None, Tensor | None]
) -> dict[str, Tensor | None]:
    return dict(zip(("mean_ptr", "var_ptr", "weight_ptr", "bias_ptr"), (*statistics, *affine), strict=True))


def _norm_constants(segments: Segments, rule: Rule) -> dict[str, Any]:
    activation = {"RECTIFIES": rule.rectifies, "CAP": rule.cap}
    return {"GROUP_C": segments.group_channels, "EPS": rule.eps, **activation}
