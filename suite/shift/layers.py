"""Finds the BN layers of a network, reads and writes their estimates, and restores a model afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin

from suite.errors import UserError


def batch_norm_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return every BN layer (1d, 2d, 3d, Sync, ghost) by module name, in definition order.

    Raises UserError for a lazy layer, which has no statistics before its first batch.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    for name, layer in layers.items():
        if isinstance(layer, LazyModuleMixin):
            which = name or type(layer).__name__
            raise UserError(f"{which} is not initialised: run a batch through it first")
    return layers


def estimating_layers(model: nn.Module, purpose: str) -> dict[str, _BatchNorm]:
    """Return the BN layers that keep running statistics. Raises UserError, led by `purpose`, if none does."""
    layers = batch_norm_layers(model)
    found = {name: layer for name, layer in layers.items() if layer.running_var is not None}
    if not found:
        none = f"none of its {len(layers)} BN layers keeps running statistics"
        what = none if layers else "has no BN layer"
        raise UserError(f"{purpose}: {type(model).__name__} {what}, so nothing is estimated")
    return found


def estimates(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return a layer's running mean μ̃ and variance σ̃², each (C,): its buffers themselves, not copies."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean, layer.running_var


@torch.no_grad()
def put_estimates(name: str, layer: _BatchNorm, mean_C: Tensor, var_C: Tensor) -> None:
    """Write μ̃ and σ̃², each (C,), into a layer's buffers. Raises UserError when they overflow float16."""
    for buffer_C, value_C in zip(estimates(layer), (mean_C, var_C), strict=True):
        buffer_C.copy_(value_C)
        # A value that was not finite before has another cause.
        if buffer_C.dtype is torch.float16 and bool((value_C.isfinite() & ~buffer_C.isfinite()).any()):
            raise UserError(f"{name}: its statistics do not fit {buffer_C.dtype}; make its buffers float32")


def is_untrained(layer: _BatchNorm) -> bool:
    """Return whether the estimates are still the initial 0 and 1.

    `num_batches_tracked` alone is not enough: checkpoints from before torch 0.4.1 lack it.
    """
    if layer.running_var is None or (layer.num_batches_tracked is not None and layer.num_batches_tracked > 0):
        return False
    mean_C, var_C = estimates(layer)
    return bool((mean_C == 0).all() and (var_C == 1).all())


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restore the modes and buffers of all modules at the end, also after an exception."""
    modes = {module: module.training for module in model.modules()}
    buffers = {buffer: buffer.clone() for buffer in model.buffers()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for buffer, value in buffers.items():
                buffer.copy_(value)


def images_of(batch: Any) -> Tensor:
    """Return the images of a batch: a tensor, (images, labels), or an object with `images_NCHW`."""
    if isinstance(batch, Tensor):
        return batch
    images: Tensor = batch.images_NCHW if hasattr(batch, "images_NCHW") else batch[0]
    return images


def labels_of(batch: Any) -> Tensor | None:
    """Return the labels (N,) of (images, labels) or of an object with `labels_N`, or None."""
    if isinstance(batch, Tensor):
        return None
    has_name = hasattr(batch, "labels_N")
    labels = batch.labels_N if has_name else batch[1] if len(batch) > 1 else None
    return labels if isinstance(labels, Tensor) and labels.dim() == 1 else None
