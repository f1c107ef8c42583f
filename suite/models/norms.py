"""The norms: batch-free ones (BFN), and batch normalisation whose statistics see a chosen number of samples.

Shape suffixes: N samples, C channels, H×W pixels, G groups, M = (C/G)·H·W elements of a group.
"""

from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
from torch import Tensor, nn

from suite.experiment import BatchFreeNorm


def batch_free_norm(
    bfn: BatchFreeNorm, num_channels: int, num_groups: int | None, affine: bool = True
) -> nn.Module:
    """A BFN for `num_channels` channels. GN and GW clip their groups to the channels, as released.

    LN on a feature map is GN with one group; IN has no affine parameters, the others have unless `affine`
    is false. Raises ValueError when the (clipped) groups do not divide the channels, listing those that do.
    """
    if bfn == "in":
        return nn.InstanceNorm2d(num_channels)
    if bfn == "ln":
        num_groups = 1
    if num_groups is None:
        raise ValueError(f"{bfn} needs num_groups")
    groups = min(num_groups, num_channels)
    if num_channels % groups:
        valid = [g for g in range(1, num_channels + 1) if num_channels % g == 0]
        raise ValueError(f"num_groups {groups} does not divide {num_channels} channels; valid: {valid}")
    kind = GroupWhitening if bfn == "gw" else nn.GroupNorm
    return kind(groups, num_channels, affine=affine)


class GroupWhitening(nn.Module):
    """Group whitening: decorrelates the groups of each sample (Huang et al., CVPR 2021).

    A sample's channels are split into G groups; each group's M elements are one row of X ∈ ℝ^{G×M}.
    The rows are centred and multiplied by Σ^{-1/2}, Σ = XXᵀ/M + εI, whose inverse root comes from
    T Newton iterations on the trace-normalised Σ. Input and output: (N, C, *).
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        iterations: int = 5,
        affine: bool = True,
    ) -> None:
        super().__init__()
        self.num_groups, self.num_channels, self.eps, self.iterations = (
            num_groups,
            num_channels,
            eps,
            iterations,
        )
        self.weight = nn.Parameter(torch.ones(num_channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_channels)) if affine else None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        # Covariances in half precision lose what whitening is about.
        with _full_precision(x_NCHW.device):
            x_NGM = _at_least_float(x_NCHW).reshape(x_NCHW.shape[0], self.num_groups, -1)
            x_NGM = x_NGM - x_NGM.mean(dim=2, keepdim=True)
            eye_GG = torch.eye(self.num_groups, device=x_NGM.device, dtype=x_NGM.dtype)
            cov_NGG = x_NGM @ x_NGM.mT / x_NGM.shape[2] + self.eps * eye_GG
            trace_N = cov_NGG.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]
            cov_NGG = cov_NGG / trace_N
            root_NGG = eye_GG.expand_as(cov_NGG)
            for _ in range(self.iterations):
                root_NGG = 1.5 * root_NGG - 0.5 * (root_NGG @ root_NGG @ root_NGG) @ cov_NGG
            white_NCHW = (root_NGG @ x_NGM / trace_N.sqrt()).reshape(x_NCHW.shape)
            if self.weight is not None and self.bias is not None:
                shape = (1, -1, *[1] * (x_NCHW.dim() - 2))
                white_NCHW = white_NCHW * self.weight.view(shape) + self.bias.view(shape)
        return white_NCHW.to(x_NCHW.dtype)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, iterations={self.iterations}"


def _full_precision(device: torch.device) -> AbstractContextManager[object]:
    # Some devices, such as meta, know no autocast.
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def _at_least_float(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class GhostBatchNorm2d(nn.BatchNorm2d):
    """BN whose statistics see `norm_batch_size` samples: the batch is normalised group by group.

    Each group updates the estimates in turn, as if it had come as a batch of its own, so ghost groups
    and gradient accumulation give one and the same result.
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

    torch's SyncBatchNorm exists for GPUs alone; on a CPU (gloo) this takes its place. Two passes, the
    second about the mean, so that a large mean does not eat the variance. Every rank must hold batches
    of one size, as training does.
    """

    def __init__(
        self, num_features: int, process_group: dist.ProcessGroup | None, **batch_norm: object
    ) -> None:
        super().__init__(num_features, **batch_norm)  # type: ignore[arg-type]
        self.process_group = process_group

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x_NCHW)
        with _full_precision(x_NCHW.device):
            x_float = _at_least_float(x_NCHW)
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
    """Make every BatchNorm2d of `model` draw its statistics from `norm_batch_size` samples.

    Equal to the batch per GPU: nothing changes. Smaller: ghost groups within the rank. Larger: the
    statistics span norm_batch_size / batch_size_per_gpu neighbouring ranks. Parameters, buffers and
    their names stay. The process group must exist in the last case; `BatchSpec` has checked the arithmetic.

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
    """The group of neighbouring ranks that this rank shares statistics with."""
    # A new group does not take the time-out of the one that it is a part of.
    timeout = None if timeout_s is None else timedelta(seconds=timeout_s)
    group: dist.ProcessGroup | None
    group, _ = dist.new_subgroups(ranks_per_statistic, timeout=timeout)
    return group
