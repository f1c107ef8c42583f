"""A stand-in for CUDA graphs on a CPU."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten


class Tape(TorchDispatchMode):
    """Keeps each operation with its arguments. It refuses what reads a value, as a GPU does."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
            raise RuntimeError(f"{func} is not permitted when stream is capturing")
        out = func(*args, **(kwargs or {}))
        if func.namespace == "aten":
            self.operations.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def play(self) -> None:
        """Do the operations again: on the same tensors, and with the numbers that they had."""
        for func, args, kwargs, out in self.operations:
            again = func(*args, **kwargs)
            if all(one.alias_info is None for one in func._schema.returns):  # neither views nor in place
                for place, value in zip(tree_leaves(out), tree_leaves(again), strict=True):
                    if isinstance(place, Tensor):
                        place.copy_(value)


class TapeRecorder:
    """Records on a tape: whatever a step takes from Python stays what it was in the recorded step.

    `log`: what was asked of it.
    """

    def __init__(self) -> None:
        self.log: list[str] = []
        self._tape = Tape()
        self._is_computed = False

    def aside(self) -> AbstractContextManager[None]:
        self.log.append("aside")
        return nullcontext()

    def record(self, compute: Callable[[], Tensor]) -> Tensor:
        self.log.append("record")
        with self._tape:
            result = compute()
        self._is_computed = True  # a CPU computes what is recorded; the first replay has nothing left to do
        return result

    def replay(self) -> None:
        self.log.append("replay")
        if not self._is_computed:
            self._tape.play()
        self._is_computed = False
