"""Finds the BN layers of a network, reads and writes their estimates, and restores a model afterwards."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin

from suite.errors import UserError
from suite.shift.look_alikes import look_alikes

# torch.compile wraps a module in one whose only child has this name.
_COMPILED = re.compile(r"(^|\.)_orig_mod(?=\.|$)")
_STATISTIC = re.compile(r"(.*?)[._]?running_(mean|var)")
# Norms with frozen statistics: FrozenBatchNorm2d of torchvision, detectron2 and DETR, FrozenBN, InPlaceABN.
_FROZEN = re.compile(r"BatchNorm|BN")
_INT8 = re.compile(r"torch\.ao\.nn\.(intrinsic\.)?quantized\.modules\.(conv|linear)\w*")


def batch_norm_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return every BN layer (1d, 2d, 3d, Sync, ghost) by module name, in definition order.

    Names are those of the network before it was compiled. Raises UserError for a lazy layer, which has no
    statistics before its first batch, and for a scripted network, whose layers call no hooks.
    """
    layers: dict[str, _BatchNorm] = {}
    for full_name, module in model.named_modules():
        name = _plain(full_name)
        if isinstance(module, torch.jit.ScriptModule) and (module is model or keeps_statistics(module)):
            which = name or "the network"
            raise UserError(f"{which} is scripted, and hides its layers from hooks: give the original module")
        if isinstance(module, LazyModuleMixin) and isinstance(module, _BatchNorm):
            which = name or type(module).__name__
            raise UserError(f"{which} is not initialised: run a batch through it first")
        if isinstance(module, _BatchNorm):
            layers[name] = module
    return layers


def frozen_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return by name the layers that normalise with constants, such as torchvision's FrozenBatchNorm2d.

    They are those whose class is named after BN and which have a running mean and variance (C,).
    """

    def statistics(module: nn.Module) -> list[Any]:
        return [getattr(module, key, None) for key in ("running_mean", "running_var")]

    return {
        _plain(name): module
        for name, module in model.named_modules()
        if _FROZEN.search(type(module).__name__)
        and not isinstance(module, _BatchNorm | torch.jit.ScriptModule)
        and all(isinstance(value, Tensor) and value.dim() == 1 for value in statistics(module))
    }


def unknown_statistics(model: nn.Module) -> dict[str, str]:
    """Return a reason for each place with running statistics of which no BN layer is known to use them.

    So it is with instance norms, and in a network without BN with int8 layers, which may hold folded norms.
    """
    why = (
        "its running statistics belong to no BN layer, as after torch.export or with F.batch_norm on buffers "
        "of its own, and cannot be measured: give the original network, with nn.BatchNorm"
    )
    known = {*batch_norm_layers(model), *frozen_layers(model)}
    modules = {_plain(name): module for name, module in model.named_modules()}
    int8 = {name: _FOLDED for name, module in modules.items() if _INT8.fullmatch(type(module).__module__)}
    names = (_STATISTIC.fullmatch(_plain(name)) for name, _ in model.named_buffers())
    found = {match[1]: why for match in names if match is not None and match[1] not in known}
    for name in found:
        if isinstance(modules.get(name), nn.modules.instancenorm._InstanceNorm):
            found[name] = "an instance norm with running statistics, whose shift is not measured"
    return found if known else int8 | found


_FOLDED = (
    "an int8 layer, which may have a BN layer folded into it, whose statistics can then not be measured: "
    "give the network as it was before it was quantised"
)


def own_norms(model: nn.Module, functional: Collection[str] = ()) -> dict[str, str]:
    """Return a reason for each module that seems to be a norm of its author's own, and is not measured.

    `functional`: places whose statistics are known to be used by F.batch_norm.
    """
    known = {*batch_norm_layers(model), *frozen_layers(model), *(owner_of(name) for name in functional)}
    modules = {_plain(name) for name, _ in model.named_modules()}
    known |= {name.rpartition(".")[0] for name in functional if name not in modules}
    return {name: why for full, why in look_alikes(model).items() if (name := _plain(full)) not in known}


def check_visible(model: nn.Module, purpose: str, others: Collection[str] = ()) -> None:
    """Raise UserError, led by `purpose`, when all running statistics are where no BN layer is known.

    `others`: places whose statistics are known to be used by something else than a layer.
    """
    hidden = {name: why for name, why in unknown_statistics(model).items() if name not in others}
    if hidden and not others and not batch_norm_layers(model) and not frozen_layers(model):
        name, why = next(iter(hidden.items()))
        raise UserError(f"{purpose}: {name or type(model).__name__}: {why}")


def owner_of(buffer: str) -> str:
    """Return whose statistic a buffer of this name is: the layer's name, or the buffer's own."""
    match = _STATISTIC.fullmatch(_plain(buffer))
    return match[1] if match is not None else _plain(buffer)


def keeps_statistics(model: nn.Module) -> bool:
    """Return whether any buffer is a running mean or variance."""
    return any(_STATISTIC.fullmatch(name) for name, _ in model.named_buffers())


def num_channels(layer: nn.Module) -> int:
    """Return the width of a BN layer or of a frozen one."""
    return layer.num_features if isinstance(layer, _BatchNorm) else estimates(layer)[0].numel()


def _plain(name: str) -> str:
    return _COMPILED.sub("", name).removeprefix(".")


def estimating_layers(model: nn.Module, purpose: str) -> dict[str, _BatchNorm]:
    """Return the BN layers that keep running statistics. Raises UserError, led by `purpose`, if none does."""
    check_visible(model, purpose)
    layers = batch_norm_layers(model)
    found = {name: layer for name, layer in layers.items() if layer.running_var is not None}
    if not found:
        raise nothing_estimated(model, purpose)
    return found


def nothing_estimated(model: nn.Module, purpose: str) -> UserError:
    """Return why a network without BN layers that keep running statistics cannot be measured."""
    for name, why in own_norms(model).items():
        return UserError(f"{purpose}: {name or type(model).__name__}: {why}")
    num_layers = len(batch_norm_layers(model))
    none = f"none of its {num_layers} BN layers keeps running statistics" if num_layers else "has no BN layer"
    return UserError(f"{purpose}: {type(model).__name__} {none}, so nothing is estimated")


def has_estimates(model: nn.Module) -> bool:
    """Return whether any BN layer keeps running statistics."""
    return any(layer.running_var is not None for layer in batch_norm_layers(model).values())


def estimates(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Return a layer's running mean μ̃ and variance σ̃², each (C,): its buffers themselves, not copies."""
    mean_C, var_C = layer.running_mean, layer.running_var
    assert isinstance(mean_C, Tensor)
    assert isinstance(var_C, Tensor)
    return mean_C, var_C


@torch.no_grad()
def put_estimates(name: str, layer: nn.Module, mean_C: Tensor, var_C: Tensor) -> None:
    """Write μ̃ and σ̃², each (C,), into a layer's buffers. Raises UserError when they overflow float16."""
    for buffer_C, value_C in zip(estimates(layer), (mean_C, var_C), strict=True):
        buffer_C.copy_(value_C)
        # A value that was not finite before has another cause.
        if buffer_C.dtype is torch.float16 and bool((value_C.isfinite() & ~buffer_C.isfinite()).any()):
            raise UserError(f"{name}: its statistics do not fit {buffer_C.dtype}; make its buffers float32")


def centres(layer: nn.Module) -> bool:
    """Return whether a layer subtracts a mean. MABN does not: its variance is that about 0, E[x²]."""
    return bool(getattr(layer, "centres", True))


def is_bias_corrected(layer: nn.Module) -> bool:
    """Return whether a layer's averages are without their first values, 0 and 1, after the first batch."""
    return bool(getattr(layer, "is_bias_corrected", False))


def measures_itself(layer: nn.Module) -> bool:
    """Return whether a layer hands over the moments of its input: fused BN, where it uses its estimates."""
    return hasattr(layer, "take_moments") and not layer.training and layer.running_var is not None


def is_untrained(layer: nn.Module) -> bool:
    """Return whether the estimates are still the initial 0 and 1.

    `num_batches_tracked` alone is not enough: checkpoints from before torch 0.4.1 lack it.
    """
    batches = getattr(layer, "num_batches_tracked", None)
    if layer.running_var is None or (isinstance(batches, Tensor) and batches > 0):
        return False
    mean_C, var_C = estimates(layer)
    return bool((mean_C == 0).all() and (var_C == 1).all())


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restore the modes and buffers of all modules at the end, also after an exception.

    Raises UserError when a buffer has got another size, as those of observers do at their first batch.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = {buffer: buffer.clone() for buffer in model.buffers()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        resized = [name for name, one in model.named_buffers() if one.shape != buffers.get(one, one).shape]
        with torch.no_grad():
            for buffer, value in buffers.items():
                buffer.resize_(value.shape).copy_(value)
    if resized:
        raise UserError(
            f"{resized[0]}: got its size in the pass, as where a network that was prepared for quantisation "
            "has seen no batch: run one through it first, in training mode"
        )
