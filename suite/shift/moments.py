"""Means and variances of channels over any number of batches and ranks, without loss of precision.

Each batch gives its mean and its centred second moment, which are merged in float64 (Chan, Golub, LeVeque
1979): a mean that is a thousand times the standard deviation costs no digits of the variance. Within a batch
they are found about the mean. Those of a contiguous one on a CPU come from sums and sums of squares about
zero where the mean is at most three standard deviations away (`OFF`): there the variance's relative error is
up to 5e-7.
"""

import functools
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

FAR = 16.0  # means of so many standard deviations lose digits in float32
OFF = 3.0  # means of so many standard deviations lose a digit of float32 in a sum of squares
BLOCK_BYTES = 2**19  # of an input, for each thread: half of what a core's cache holds
MIN_ROW, MAX_ROW = 64, 1024


def batch_moments(x_NC: Tensor, near_C: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance, each (C,), of an (N, C, *) tensor over all dimensions but C.

    They are of the input's type, or of float32 if that has fewer digits. `near_C`: numbers near the mean,
    (C,); the moments are then float64, and where means are large beside the standard deviations, they are
    those of the differences from it, which float32 holds exactly.
    """
    mean_C, var_C = _moments(x_NC)
    if near_C is None:
        return mean_C.to(_wide(x_NC)), var_C.to(_wide(x_NC))
    mean_C, var_C = mean_C.double(), var_C.double()
    is_far_C = mean_C.square() > FAR**2 * var_C
    if is_far_C.any():
        far_K = is_far_C.nonzero().squeeze(1)
        x_NK, mean_K, near_K = x_NC[:, far_K].to(_wide(x_NC)), mean_C[far_K], near_C[far_K].double()
        # An estimate that is far off would lose as many digits as zero does.
        near_K = torch.where((mean_K - near_K).abs() < mean_K.abs(), near_K, mean_K).to(x_NK.dtype)
        rest_K, var_C[far_K] = (one.double() for one in _moments(x_NK - _as_channels(near_K, x_NK)))
        mean_C[far_K] = near_K.double() + rest_K
    return mean_C, var_C


def _moments(x_NC: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance, (C,). A CPU reads the input once, in blocks that stay in its cache."""
    if x_NC.device.type != "cpu" or x_NC.dtype is torch.float64 or x_NC.dim() < 3 or not x_NC.numel():
        return _moments_of(x_NC)
    if x_NC.is_contiguous() and x_NC[0, 0].numel() > 1:
        mean_C, var_C = _moments_of_sums(x_NC)
        off_C = mean_C.square() > OFF**2 * var_C
        if off_C.any():
            off_K = off_C.nonzero().squeeze(1)
            mean_C[off_K], var_C[off_K] = _moments_of_samples(x_NC[:, off_K])
        return mean_C, var_C
    blocks = _blocks(x_NC)
    found = [_moments_of(one_NC) for one_NC in blocks]
    if len(found) == 1:
        return found[0]
    mean_RC, var_RC = (torch.stack(rows).double() for rows in zip(*found, strict=True))
    share_R = torch.tensor([len(one_NC) / len(x_NC) for one_NC in blocks], dtype=torch.float64)
    mean_C = share_R @ mean_RC
    return mean_C, share_R @ (var_RC + (mean_RC - mean_C).square())


def _blocks(x: Tensor) -> tuple[Tensor, ...]:
    """Split a tensor along its first dimension into parts that stay in the cores' caches."""
    return torch.split(x, max(1, BLOCK_BYTES * torch.get_num_threads() // (4 * x[0].numel())))


def _moments_of_sums(x_NC: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance, (C,) float64, of a contiguous tensor, by its sums and sums of squares.

    A sum of squares about zero has lost a digit where the mean is three standard deviations away.
    """
    num, channels = x_NC.shape[:2]
    values = x_NC[0, 0].numel()
    rows = [block.float() for block in _blocks(x_NC.view(num, channels, -1, _row_length(values)))]
    sums_NCR = torch.cat([row.sum(3) for row in rows]).double()
    norms_NCR = torch.cat([torch.linalg.vector_norm(row, dim=3) for row in rows]).double()
    mean_C = sums_NCR.sum((0, 2)) / (num * values)
    return mean_C, norms_NCR.square().sum((0, 2)) / (num * values) - mean_C.square()


@functools.cache
def _row_length(values: int) -> int:
    """Return in rows of how many of a channel's values float32 adds up, before float64 does."""
    length = max(size for size in range(1, min(values, MAX_ROW) + 1) if values % size == 0)
    return length if length >= min(values, MIN_ROW) else values


def _moments_of_samples(x_NC: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance, (C,) float64, about the mean of each channel of each sample.

    Group norm's kernel is the only one of torch that finds both in one pass, in vectors and about the mean.
    What it normalises is dropped before it leaves the cache.
    """
    found = []
    for block_NC in _blocks(x_NC.contiguous()):
        num, channels = block_NC.shape[:2]
        values = block_NC[0, 0].numel()
        _, mean_NC, rstd_NC = torch.native_group_norm(
            block_NC.float(), None, None, num, channels, values, channels, 0.0
        )
        found.append((mean_NC, rstd_NC.double().pow(-2)))
    mean_RC, var_RC = (torch.cat(rows).double() for rows in zip(*found, strict=True))
    between_C, mean_C = torch.var_mean(mean_RC, dim=0, correction=0)
    return mean_C, var_RC.mean(dim=0) + between_C


def _moments_of(x_NC: Tensor) -> tuple[Tensor, Tensor]:
    x_NC = x_NC.to(_wide(x_NC))
    if x_NC.device.type == "cpu" and x_NC.dtype is torch.float32:
        # The kernel of BN's own statistics: it sums in float64 and is three times as fast as var_mean.
        mean_C, var_C = torch.ops.aten.batch_norm_update_stats(x_NC, None, None, 0.0)
    else:
        var_C, mean_C = torch.var_mean(x_NC, dim=[0, *range(2, x_NC.dim())], correction=0)
    return mean_C, var_C


def _wide(x: Tensor) -> torch.dtype:
    """Return the type in which an input's moments are computed."""
    return x.dtype if x.dtype is torch.float64 else torch.float32


def _as_channels(values_C: Tensor, x_NC: Tensor) -> Tensor:
    """Return one value for each channel in a shape that broadcasts against (N, C, *)."""
    return values_C.view(1, -1, *[1] * (x_NC.dim() - 2))


class ChannelMoments:
    """Running count, mean and centred sum of squares of C channels, in float64."""

    def __init__(self, num_channels: int, device: torch.device) -> None:
        self.count = 0
        self.mean_C = torch.zeros(num_channels, dtype=torch.float64, device=device)
        self.squares_C = torch.zeros_like(self.mean_C)

    def update(self, x_NC: Tensor) -> None:
        """Add a batch (N, C, *)."""
        count = x_NC.numel() // x_NC.shape[1]
        if count:
            mean_C, var_C = (t.double() for t in batch_moments(x_NC))
            self.merge(count, mean_C, var_C * count)

    def merge(self, count: int, mean_C: Tensor, squares_C: Tensor) -> None:
        """Add `count` values per channel with the given mean (C,) and centred sum of squares (C,)."""
        if count == 0:
            return
        total = self.count + count
        delta_C = mean_C - self.mean_C
        self.mean_C += delta_C * (count / total)
        self.squares_C += squares_C + delta_C.square() * (self.count * count / total)
        self.count = total

    @property
    def var_C(self) -> Tensor:
        """Biased variance, (C,)."""
        return self.squares_C / max(self.count, 1)

    @property
    def sigma_C(self) -> Tensor:
        """Biased standard deviation, (C,)."""
        return self.var_C.sqrt()


def merge_each(
    into: Sequence[ChannelMoments], counts: Sequence[int], means: list[Tensor], variances: list[Tensor]
) -> None:
    """Add to each of `into`, all different, its own number of values with their moments, (C,) float64.

    As `ChannelMoments.merge` of one after another, to the bit, in a few operations on a GPU.
    """
    totals = [one.count + count for one, count in zip(into, counts, strict=True)]
    old_means, old_squares = [one.mean_C for one in into], [one.squares_C for one in into]
    shares = [count / total for count, total in zip(counts, totals, strict=True)]
    deltas = torch._foreach_sub(means, old_means)
    torch._foreach_add_(old_means, torch._foreach_mul(deltas, shares))
    squares = torch._foreach_mul(variances, [float(count) for count in counts])
    apart = torch._foreach_mul(deltas, deltas)
    torch._foreach_mul_(
        apart, [one.count * count / total for one, count, total in zip(into, counts, totals, strict=True)]
    )
    torch._foreach_add_(squares, apart)
    torch._foreach_add_(old_squares, squares)
    for one, total in zip(into, totals, strict=True):
        one.count = total


def reduce_over_ranks(moments: list[ChannelMoments]) -> None:
    """Merge the moments of all ranks, in place and on every rank. All ranks list the same layers."""
    if not dist.is_initialized() or dist.get_world_size() == 1 or not moments:
        return
    device, sizes = moments[0].mean_C.device, [m.mean_C.numel() for m in moments]
    counts = torch.tensor([float(m.count) for m in moments], dtype=torch.float64, device=device)
    total = counts.clone()
    dist.all_reduce(total)
    share_D = (counts / total.clamp(min=1)).repeat_interleave(torch.tensor(sizes, device=device))
    own_D = torch.cat([m.mean_C for m in moments])
    mean_D = own_D * share_D
    dist.all_reduce(mean_D)
    count_D = counts.repeat_interleave(torch.tensor(sizes, device=counts.device))
    squares_D = torch.cat([m.squares_C for m in moments]) + count_D * (own_D - mean_D).square()
    dist.all_reduce(squares_D)
    means, squares = torch.split(mean_D, sizes), torch.split(squares_D, sizes)
    for m, count, mean_C, squares_C in zip(moments, total.tolist(), means, squares, strict=True):
        m.count, m.mean_C, m.squares_C = int(count), mean_C, squares_C
