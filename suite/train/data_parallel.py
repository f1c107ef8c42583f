"""The module that a step calls: network and loss, compiled if a run says so, within DDP on several ranks."""

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from suite.experiment import Run
from suite.train.distributed import Ranks
from suite.train.graphs import StepGraph

COMPILER = "inductor"


def step_module(
    objective: nn.Module, run: Run, ranks: Ranks, accumulation_steps: int, graph: StepGraph | None
) -> nn.Module:
    """Return what the steps of a run call. `objective`: see `suite.train.task.Task`.

    It is compiled within DDP and not around it: the loss is then part of the compiled code, and torch's
    compiler, which sees DDP at work, divides the code where DDP's buckets end.
    """
    if run.recipe.compile:
        objective.compile(backend=COMPILER)
    if ranks.world_size == 1:
        return objective
    # Compiled code, accumulation and recorded steps are more than a static graph of DDP allows.
    is_plain = accumulation_steps == 1 and not run.recipe.compile and graph is None
    is_static = run.task.entry.is_static and is_plain
    with nullcontext() if graph is None else graph.recorder.aside():
        bucket_mb = run.system.ddp_bucket_mb
        return data_parallel(objective, ranks.device, is_static=is_static, bucket_mb=bucket_mb)


def data_parallel(
    model: nn.Module, device: torch.device, *, is_static: bool, bucket_mb: int | None = None
) -> DistributedDataParallel:
    """Return the model within DDP.

    Estimates stay each rank's own: training does not read them, and they are shared before evaluating.
    Gradients are views of the buckets that are exchanged, which saves a copy. `is_static`: whether each step
    uses the same parameters in the same order. `bucket_mb`: MiB that are exchanged at once; None: torch's
    choice, whose first bucket is smaller, so that its exchange begins early.
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
        bucket_cap_mb=bucket_mb,
        **options,
    )


def exchanging_gradients(forward: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
    """Return the context of a pass: after the last one of a step, ranks exchange their gradients."""
    return nullcontext() if is_last or not isinstance(forward, DistributedDataParallel) else forward.no_sync()
