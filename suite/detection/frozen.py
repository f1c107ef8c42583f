"""BN layers as constants and back: torchvision's FrozenBatchNorm2d, which detectors are trained with."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d

from suite.errors import UserError
from suite.models.batch_norm import check_replaceable
from suite.models.norm_sites import batch_norms
from suite.models.norms.variant import BatchNormVariant
from suite.shift.layers import frozen_layers


def freeze_batch_norms(model: nn.Module, within: tuple[str, ...] = ("",)) -> nn.Module:
    """Replace the BN layers whose names begin with one of `within` by constants, and return the model.

    A frozen layer (N, C, H, W) → (N, C, H, W) normalises with the running averages that the layer had, and
    scales and shifts as it did; nothing of it is trained. Names stay, but for the count of batches. Raises
    UserError for a layer that is no plain BN, or that keeps no estimates.
    """
    check_replaceable(model)
    for name, layer in batch_norms(model).items():
        if name.startswith(within):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, _frozen(name, layer))
    return model


def thaw_batch_norms(model: nn.Module) -> nn.Module:
    """Replace torchvision's frozen norms by BN in inference mode, in place, and return the model.

    In inference mode the network computes the same. What changes statistics can then be tried on it.
    """
    for name, old in frozen_layers(model).items():
        if isinstance(old, FrozenBatchNorm2d):
            new = nn.BatchNorm2d(len(old.weight), eps=old.eps).to(old.weight.device)
            new.load_state_dict(old.state_dict(), strict=False)
            new.num_batches_tracked.fill_(1)  # the estimates are of some training, if not of this one
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, new.eval())
    return model


def _frozen(name: str, old: _BatchNorm) -> nn.Module:
    if isinstance(old, BatchNormVariant) or old.running_mean is None or old.running_var is None:
        raise UserError(f"{name} is a {type(old).__name__}, which has no estimates of BN to freeze")
    new = FrozenBatchNorm2d(old.num_features, eps=old.eps)
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean", "running_var"):
            if (value_C := getattr(old, name)) is not None:
                getattr(new, name).copy_(value_C)
    return new.to(old.running_mean.device)
