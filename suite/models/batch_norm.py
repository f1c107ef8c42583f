"""Batch normalisation whose statistics see a chosen number of samples.

Shape suffixes: N samples, C channels; `*` is any number of further dimensions, such as pixels.
"""

from datetime import timedelta

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from suite.errors import UserError
from suite.models.batch_free import at_least_float, full_precision
from suite.models.norm_sites import batch_norms, replace_modules
from suite.models.norms.variant import AnyBatchNorm, BatchNormVariant

AFTERWARDS = ("drop", "act")  # children of timm's BatchNormAct2d, which it applies to what it has normalised


class _TakingOver(AnyBatchNorm):
    """BN of inputs (N, C, *), which takes over what timm's BatchNormAct2d does behind its norm."""

    def take_over(self, old: _BatchNorm) -> None:
        """Take the parameters, buffers, mode, device and activation of `old`."""
        self.load_state_dict(old.state_dict())
        tensors = iter(old.state_dict().values())
        if (example := next(tensors, None)) is not None:
            self.to(example.device, example.dtype if example.is_floating_point() else None)
        self.train(old.training)
        for own, theirs in zip(self.parameters(), old.parameters(), strict=True):
            own.requires_grad_(theirs.requires_grad)
        for name in AFTERWARDS:
            if (child := getattr(old, name, None)) is not None:
                self.add_module(name, child)

    def _afterwards(self, out: Tensor) -> Tensor:
        for name in AFTERWARDS:
            if (child := self._modules.get(name)) is not None:
                out = child(out)
        return out


class GhostBatchNorm2d(_TakingOver):
    """BN whose statistics see `norm_batch_size` samples: the batch is normalised group by group.

    Each group updates the estimates in turn, as a batch of its own would, so that ghost groups and gradient
    accumulation give the same result.
    """

    def __init__(self, num_features: int, norm_batch_size: int, **batch_norm: object) -> None:
        super().__init__(num_features, **batch_norm)  # type: ignore[arg-type]
        self.norm_batch_size = norm_batch_size

    def forward(self, x_NC: Tensor) -> Tensor:
        if not self.training:
            return self._afterwards(super().forward(x_NC))
        groups: tuple[Tensor, ...] = torch.split(x_NC, self.norm_batch_size)
        out = torch.cat([super(GhostBatchNorm2d, self).forward(group) for group in groups])
        return self._afterwards(out)

    def extra_repr(self) -> str:
        return f"{self.num_features}, norm_batch_size={self.norm_batch_size}"


class CrossRankBatchNorm2d(_TakingOver):
    """BN whose statistics span the ranks of a process group, on any device.

    It replaces torch's SyncBatchNorm, which needs GPUs, on CPUs (gloo). The variance is taken about the mean
    in a second pass, so that a large mean costs no precision. Ranks count by their numbers of values, which
    differ where a detector's images do.
    """

    def __init__(self, num_features: int, group: dist.ProcessGroup | None, **batch_norm: object) -> None:
        super().__init__(num_features, **batch_norm)  # type: ignore[arg-type]
        self.process_group = group

    def forward(self, x_NC: Tensor) -> Tensor:
        if not self.training:
            return self._afterwards(super().forward(x_NC))
        dims = (0, *range(2, x_NC.dim()))
        per_channel = (-1, *[1] * (x_NC.dim() - 2))
        with full_precision(x_NC.device):
            x_float = at_least_float(x_NC)
            count = x_NC.numel() // x_NC.shape[1]
            total = self._sum_over_ranks(count)
            weight = count * dist.get_world_size(self.process_group) / total  # 1 where all ranks are alike
            mean_C = self._mean_over_ranks(x_float.mean(dim=dims) * weight)
            centred_NC = x_float - mean_C.view(per_channel)
            var_C = self._mean_over_ranks(centred_NC.square().mean(dim=dims) * weight)
            if self.track_running_stats:
                self._update_estimates(mean_C.detach(), var_C.detach(), total)
            out_NC = centred_NC * (var_C + self.eps).rsqrt().view(per_channel)
            if self.affine:
                out_NC = out_NC * self.weight.view(per_channel) + self.bias.view(per_channel)
        return self._afterwards(out_NC.to(x_NC.dtype))

    def _mean_over_ranks(self, value_C: Tensor) -> Tensor:
        all_reduce = dist_functional.all_reduce  # the differentiable one
        total_C: Tensor = all_reduce(value_C, group=self.process_group)  # type: ignore[no-untyped-call]
        return total_C / dist.get_world_size(self.process_group)

    def _sum_over_ranks(self, count: int) -> int:
        total = torch.tensor(count)
        dist.all_reduce(total, group=self.process_group)
        return int(total)

    @torch.no_grad()
    def _update_estimates(self, mean_C: Tensor, var_C: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
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
    """Replace every BN layer of `model` by one whose statistics see `norm_batch_size` samples.

    If equal to the batch per GPU, nothing changes; if smaller, ghost groups within the rank; if larger, the
    statistics span norm_batch_size / batch_size_per_gpu neighbouring ranks, which needs a process group.
    Parameters, buffers and their names stay, and so do timm's `drop` and `act`. BN's variants are not
    replaced, but normalise in ghost groups themselves. `BatchSpec` has checked the arithmetic.

    `collective_timeout_s`: how long ranks wait for their neighbours' statistics; None: torch's default.
    Raises UserError, with the model as it was, for a layer that cannot be replaced.
    """
    if norm_batch_size == batch_size_per_gpu:
        return model
    check_replaceable(model)
    group = None
    if norm_batch_size > batch_size_per_gpu:
        _check_across_ranks(model)
        group = _neighbours(norm_batch_size // batch_size_per_gpu, collective_timeout_s)

    def convert(bn: _BatchNorm) -> nn.Module:
        settings = {"eps": bn.eps, "momentum": bn.momentum, "affine": bn.affine}
        settings["track_running_stats"] = bn.track_running_stats
        new: _TakingOver
        if norm_batch_size < batch_size_per_gpu:
            new = GhostBatchNorm2d(bn.num_features, norm_batch_size, **settings)
        elif device.type == "cuda" and not dict(bn.named_children()):
            synced = nn.SyncBatchNorm(bn.num_features, process_group=group, **settings)  # type: ignore[arg-type]
            synced.load_state_dict(bn.state_dict())
            return synced.to(next(iter(bn.state_dict().values())).device)
        else:
            new = CrossRankBatchNorm2d(bn.num_features, group, **settings)
        new.take_over(bn)
        return new

    layers = batch_norms(model).values()
    for layer in layers:
        if isinstance(layer, BatchNormVariant):
            layer.norm_batch_size = norm_batch_size
    replace_modules(model, {one: convert(one) for one in layers if not isinstance(one, BatchNormVariant)})
    return model


def check_replaceable(model: nn.Module) -> None:
    """Raise UserError for a BN layer whose class does more than we know of."""
    for name, module in model.named_modules():
        is_plain = type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
        is_plain |= isinstance(module, BatchNormVariant)
        is_timms = set(dict(module.named_children())) == set(AFTERWARDS)
        if isinstance(module, _BatchNorm) and not is_plain and not is_timms:
            kind = f"{type(module).__module__}.{type(module).__qualname__}"
            raise UserError(f"norm_batch_size: {name} is a {kind}, whose statistics cannot be regrouped")


def _check_across_ranks(model: nn.Module) -> None:
    """Raise UserError for a variant of BN, whose statistics are those of one rank."""
    for name, module in model.named_modules():
        if isinstance(module, BatchNormVariant):
            kind = type(module).__name__
            raise UserError(
                f"norm_batch_size: {name} is a {kind}, whose statistics cannot span several ranks"
            )


def _neighbours(ranks_per_statistic: int, timeout_s: float | None) -> dist.ProcessGroup | None:
    """Return the group of neighbouring ranks that this rank shares statistics with."""
    # A new group does not inherit the time-out of its parent.
    timeout = None if timeout_s is None else timedelta(seconds=timeout_s)
    group: dist.ProcessGroup | None = dist.new_subgroups(ranks_per_statistic, timeout=timeout)[0]
    return group
