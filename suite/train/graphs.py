"""Whole training steps as a CUDA graph: what a step computes is recorded once, and then replayed.

A replay costs the host one launch, where a step of a small batch costs thousands. What it reads and writes
lies at fixed places: the inputs are copied to where the recorded step reads them, the learning rate is a
tensor, and the weights, estimates and sums are the network's own. What the host decides stays outside: the
order, mixup, seeds of dropout (a replay reads the generator's seed), TID and averages of the weights.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from suite.errors import UserError
from suite.experiment import Run

WARMUP_STEPS = 11
"""Steps that are computed as they are first: so many DDP needs, and fewer cuDNN, Triton and momenta."""

Compute = Callable[..., Tensor]


class Recorder(Protocol):
    """Records what is computed, and does it again."""

    def aside(self) -> AbstractContextManager[None]:
        """Return the context in which DDP is made, and in which the first steps are computed."""

    def record(self, compute: Callable[[], Tensor]) -> Tensor:
        """Record without computing. Return the tensor into which each replay writes."""

    def replay(self) -> None:
        """Compute what was recorded."""


class CudaRecorder:
    """A CUDA graph. It is recorded on the stream on which DDP and its gradients were made, as DDP needs.

    Other threads, such as those of loaders, of checkpoints and of NCCL, go on meanwhile.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._graph = torch.cuda.CUDAGraph()

    @contextmanager
    def aside(self) -> Iterator[None]:
        around = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(around)
        with torch.cuda.stream(self._stream):
            yield
        around.wait_stream(self._stream)

    def record(self, compute: Callable[[], Tensor]) -> Tensor:
        with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
            return compute()

    def replay(self) -> None:
        self._graph.replay()


class StepGraph:
    """Does steps: the first ones as they are, then by a graph of one of them."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._inputs: tuple[Tensor, ...] = ()
        self._num_steps = 0
        self._loss: Tensor | None = None

    def step(self, compute: Compute, inputs: tuple[Tensor, ...]) -> Tensor:
        """Do a step, `compute(*inputs)`, whose result, (), is overwritten by the next one.

        The inputs have the same shapes each time. Raises RuntimeError where the step cannot be recorded, such
        as one that reads a value on the host.
        """
        if not self._inputs:
            self._inputs = tuple(torch.empty_like(one) for one in inputs)
        for place, one in zip(self._inputs, inputs, strict=True):
            if (place.shape, place.dtype) != (one.shape, one.dtype):
                recorded = f"{tuple(place.shape)} {place.dtype}"
                raise RuntimeError(f"an input of {tuple(one.shape)} {one.dtype} where a step has {recorded}")
            place.copy_(one, non_blocking=True)

        self._num_steps += 1
        if self._num_steps <= WARMUP_STEPS:
            with self.recorder.aside():
                return compute(*self._inputs)
        if self._loss is None:
            try:
                self._loss = self.recorder.record(partial(compute, *self._inputs))
            except RuntimeError as error:
                # torch ends a failed recording with an error of its own; the first one says what failed.
                cause = error.__context__ or error
                why = (str(cause) or type(cause).__name__).splitlines()[0]
                sentence = f"system.cuda_graphs: a step of this run cannot be recorded ({why}): leave it out"
                raise RuntimeError(sentence) from error
        self.recorder.replay()
        return self._loss


def step_graph(run: Run, device: torch.device, accumulation_steps: int) -> StepGraph | None:
    """Return the StepGraph of a run on this device; None where the run asks for none.

    Raises UserError where it asks for one and cannot have it.
    """
    if not run.system.cuda_graphs:
        return None
    if (obstacle := _obstacle(run, device, accumulation_steps)) is not None:
        raise UserError(f"system.cuda_graphs is not possible here: {obstacle}; set it to false")
    return StepGraph(recorder_for(device))


def recorder_for(device: torch.device) -> Recorder:
    """Return what records on a device, a GPU."""
    return CudaRecorder(device)


def _obstacle(run: Run, device: torch.device, accumulation_steps: int) -> str | None:
    if not run.task.entry.is_static:
        return f"the shapes of {run.task.kind} differ from step to step"
    if run.recipe.compile:
        return "recipe.compile is true, and compiled code is not recorded"
    if run.recipe.federated is not None:
        return "recipe.federated exchanges weights and momenta between steps"
    if run.batch.norm > run.batch.per_gpu:
        return "batch.norm_batch_size spans several ranks, which exchange statistics within the step"
    if accumulation_steps > 1:
        return f"a step accumulates the gradients of {accumulation_steps} passes, and a graph has one"
    if device.type != "cuda":
        return "the run is on a CPU"
    return None
