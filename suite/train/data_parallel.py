"""The module that averages gradients over ranks, as torch's versions offer it."""

import inspect
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def data_parallel(model: nn.Module, device: torch.device, *, is_static: bool) -> DistributedDataParallel:
    """Return the model within DDP.

    Estimates stay each rank's own: training does not read them, and they are shared before evaluating.
    Gradients are views of the buckets that are exchanged, which saves a copy. `is_static`: whether each step
    uses the same parameters in the same order.
    """
    # torch 2.13 renamed the argument. The new one also copies the first rank's buffers once, at the start.
    parameters = inspect.signature(DistributedDataParallel.__init__).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
    options: dict[str, Any] = {sync: False}
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        static_graph=is_static,
        **options,
    )
