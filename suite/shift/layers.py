"""The BN layers of a network: finding them, listening to their inputs, leaving no trace."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from suite.shift.moments import ChannelMoments, reduce_over_ranks


def batch_norm_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """Every BN layer (1d, 2d, 3d, Sync, ghost) by module name, in definition order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Whatever happens inside, modes and buffers are as before afterwards."""
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
    """The images of a batch: a tensor, (images, labels), or an object with `images_NCHW`."""
    if isinstance(batch, Tensor):
        return batch
    images: Tensor = batch.images_NCHW if hasattr(batch, "images_NCHW") else batch[0]
    return images


@torch.no_grad()
def input_moments(model: nn.Module, batches: Iterable[Any]) -> tuple[dict[str, ChannelMoments], int]:
    """Moments of every BN layer's input over the batches of all ranks, and the number of images.

    The layers come in the order in which the forward pass first calls them; a layer that was not called
    is left out. The model runs in the mode that it is in.
    """
    layers = batch_norm_layers(model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    moments = {name: ChannelMoments(bn.num_features, device) for name, bn in layers.items()}
    order: dict[str, int] = {}
    num_images = 0
    with ExitStack() as hooks:
        for name, layer in layers.items():

            def listen(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                order.setdefault(name, len(order))
                moments[name].update(inputs[0])

            hooks.callback(layer.register_forward_pre_hook(listen).remove)
        for batch in batches:
            images_NCHW = images_of(batch)
            num_images += images_NCHW.shape[0]
            model(images_NCHW.to(device, non_blocking=True))
    order, num_images = _agree_over_ranks(order, num_images)
    called = sorted(order, key=order.__getitem__)
    reduce_over_ranks([moments[name] for name in called])
    return {name: moments[name] for name in called}, num_images


def _agree_over_ranks(order: dict[str, int], num_images: int) -> tuple[dict[str, int], int]:
    # A rank whose share of the images is empty has called nothing: the others know the order.
    if not torch.distributed.is_initialized():
        return order, num_images
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, (order, num_images))
    return max((o for o, _ in everyone), key=len), sum(n for _, n in everyone)
