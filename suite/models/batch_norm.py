"""Batch normalisation whose statistics see a chosen number of samples.

Shape suffixes: N samples, C channels, H×W pixels.
"""

from datetime import timedelta

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
from torch import Tensor, nn

from suite.models.batch_free import at_least_float, full_precision


class GhostBatchNorm2d(nn.BatchNorm2d):
    """BN whose statistics see `norm_batch_size` samples: the batch is normalised group by group.

    Each group updates the estimates in turn, as a batch of its own would, so that ghost groups and gradient
    accumulation give the same result.
    """

    def __init__(self, num_features: int, norm_batch_size: int, **batch_norm: object) -> None:
        super().__init__(num_features, **batch_norm)  # type: ignore[arg-type]
        self.norm_batch_size = norm_batch_size

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x_NCHW)
        groups: tuple[Tensor, ...] = torch.split(x_NCHW, self.norm_batch_size)
        return torch.cat([super(GhostBatchNorm2d, self).forward(group) for group in groups])

    def extra_repr(self) -> str:
        return f"{self.num_features}, norm_batch_size={self.norm_batch_size}"


class CrossRankBatchNorm2d(nn.BatchNorm2d):
    """BN whose statistics span the ranks of a process group, on any device.

    It replaces torch's SyncBatchNorm, which needs GPUs, on CPUs (gloo). The variance is taken about the mean
    in a second pass, so that a large mean costs no precision. All ranks must have the same batch size.
    """

    def __init__(self, num_features: int, group: dist.ProcessGroup | None, **batch_norm: object) -> None:
        super().__init__(num_features, **batch_norm)  # type: ignore[arg-type]
        self.process_group = group

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x_NCHW)
        with full_precision(x_NCHW.device):
            x_float = at_least_float(x_NCHW)
            mean_C = self._mean_over_ranks(x_float.mean(dim=(0, 2, 3)))
            centred_NCHW = x_float - mean_C[:, None, None]
            var_C = self._mean_over_ranks(centred_NCHW.square().mean(dim=(0, 2, 3)))
            self._update_estimates(mean_C.detach(), var_C.detach(), x_float)
            out_NCHW = centred_NCHW * (var_C + self.eps).rsqrt()[:, None, None]
            if self.affine:
                out_NCHW = out_NCHW * self.weight[:, None, None] + self.bias[:, None, None]
        return out_NCHW.to(x_NCHW.dtype)

    def _mean_over_ranks(self, value_C: Tensor) -> Tensor:
        all_reduce = dist_functional.all_reduce  # the differentiable one
        total_C: Tensor = all_reduce(value_C, group=self.process_group)  # type: ignore[no-untyped-call]
        return total_C / dist.get_world_size(self.process_group)

    @torch.no_grad()
    def _update_estimates(self, mean_C: Tensor, var_C: Tensor, x_NCHW: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        count = x_NCHW.numel() // x_NCHW.shape[1] * dist.get_world_size(self.process_group)
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean_C, self.momentum)
        self.running_var.lerp_(var_C * count / (count - 1), self.momentum)


def set_norm_batch_size(
    model: nn.Module,
    norm_batch_size: int,
    batch_size_per_gpu: int,
    device: torch.device,
    collective_timeout_s: float | None = None,
) -> nn.Module:
    """Replace every BatchNorm2d of `model` by one whose statistics see `norm_batch_size` samples.

    If equal to the batch per GPU, nothing changes; if smaller, ghost groups within the rank; if larger, the
    statistics span norm_batch_size / batch_size_per_gpu neighbouring ranks, which needs a process group.
    Parameters, buffers and their names stay. `BatchSpec` has checked the arithmetic.

    `collective_timeout_s`: how long ranks wait for their neighbours' statistics; None: torch's default.
    """
    if norm_batch_size == batch_size_per_gpu:
        return model
    group = None
    if norm_batch_size > batch_size_per_gpu:
        group = _neighbours(norm_batch_size // batch_size_per_gpu, collective_timeout_s)

    def convert(bn: nn.BatchNorm2d) -> nn.Module:
        settings = {"eps": bn.eps, "momentum": bn.momentum, "affine": bn.affine}
        if norm_batch_size < batch_size_per_gpu:
            new: nn.Module = GhostBatchNorm2d(bn.num_features, norm_batch_size, **settings)
        elif device.type == "cuda":
            new = nn.SyncBatchNorm(bn.num_features, process_group=group, **settings)  # type: ignore[arg-type]
        else:
            new = CrossRankBatchNorm2d(bn.num_features, group, **settings)
        new.load_state_dict(bn.state_dict())
        return new.to(next(iter(bn.state_dict().values())).device)

    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, convert(child))
    return model


def _neighbours(ranks_per_statistic: int, timeout_s: float | None) -> dist.ProcessGroup | None:
    """Return the group of neighbouring ranks that this rank shares statistics with."""
    # A new group does not inherit the time-out of its parent.
    timeout = None if timeout_s is None else timedelta(seconds=timeout_s)
    group: dist.ProcessGroup | None = dist.new_subgroups(ranks_per_statistic, timeout=timeout)[0]
    return group
