"""BN layers as constants and back: torchvision's FrozenBatchNorm2d, which detectors are trained with."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d

from suite.errors import UserError
from suite.models.batch_norm import check_replaceable
from suite.models.norm_sites import batch_norms
from suite.models.norms.variant import BatchNormVariant
from suite.shift.layers import frozen_layers, put_estimates
from suite.shift.precise import precise_statistics


def freeze_batch_norms(model: nn.Module, within: tuple[str, ...] = ("",)) -> nn.Module:
    """Replace the BN layers whose names begin with one of `within` by constants, and return the model.

    A frozen layer (N, C, H, W) → (N, C, H, W) normalises with the running averages that the layer had, and
    scales and shifts as it did; nothing of it is trained. Names stay, but for the count of batches. Raises
    UserError for a layer that is no plain BN, or that keeps no estimates.
    """
    check_replaceable(model)
    found = batch_norms(model).items()
    _put(model, {name: _frozen(name, layer) for name, layer in found if name.startswith(within)})
    return model


def calibrate(model: nn.Module, batches: Iterable[Any]) -> None:
    """Give frozen norms the statistics that their inputs have over `batches`, as in training mode.

    For a network that is trained from its first weights, whose own statistics are 0 and 1. Under
    torch.distributed each rank gives its share. A network without frozen norms stays as it is.
    """
    if not (frozen := frozen_layers(model)):
        return
    trained = {name: _thawed(layer) for name, layer in frozen.items() if isinstance(layer, FrozenBatchNorm2d)}
    _put(model, trained)
    statistics = precise_statistics(model, batches)
    _put(model, {name: frozen[name] for name in trained})
    for name, layer in frozen.items():
        if name in statistics:
            put_estimates(name, layer, *statistics[name])


def thaw_batch_norms(model: nn.Module, *, are_trained: bool = False) -> nn.Module:
    """Replace torchvision's frozen norms by BN in inference mode, in place, and return the model.

    In inference mode the network computes the same. What changes statistics can then be tried on it.
    `are_trained`: whether their scales and shifts are trained, and those of the norms that `convert` puts in
    their places.
    """
    for name, layer in frozen_layers(model).items():
        if isinstance(layer, FrozenBatchNorm2d):
            _put(model, {name: _thawed(layer).requires_grad_(are_trained)})
    return model


def _put(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)


def _thawed(old: FrozenBatchNorm2d) -> nn.Module:
    # Without a momentum there are no first values 0 and 1 in the estimates to correct.
    new = nn.BatchNorm2d(len(old.weight), eps=old.eps, momentum=None).to(old.weight.device)
    new.load_state_dict(old.state_dict(), strict=False)
    assert new.num_batches_tracked is not None
    new.num_batches_tracked.fill_(1)  # the estimates are of some training, if not of this one
    return new.eval()


def _frozen(name: str, old: _BatchNorm) -> nn.Module:
    if isinstance(old, BatchNormVariant) or old.running_mean is None or old.running_var is None:
        raise UserError(f"{name} is a {type(old).__name__}, which has no estimates of BN to freeze")
    new = FrozenBatchNorm2d(old.num_features, eps=old.eps)
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean", "running_var"):
            if (value_C := getattr(old, name)) is not None:
                getattr(new, name).copy_(value_C)
    frozen: nn.Module = new.to(old.running_mean.device)
    return frozen
