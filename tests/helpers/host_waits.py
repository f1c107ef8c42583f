"""Notices, without a GPU, each operation by which a host would wait for one."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
MASKS = (torch.bool, torch.uint8)


class HostWaits(TorchDispatchMode):
    """Raises AssertionError at an operation by which the host waits for a device of this type.

    Such are values that the host reads, results whose shape depends on values, and copies from or to memory
    that is not pinned. `count` is how many operations there were.
    """

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type, self.count = device_type, 0
        self._pinned: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        self.count += 1
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [one for one in tensors if one.device.type == self.device_type]
        if func is aten.is_pinned.default:
            return self._is_pinned(args[0])
        if func is aten._pin_memory.default:
            return self._pin(args[0])
        if there and torch.Tag.data_dependent_output in func.tags:
            self._complain(func, "reads a value")
        if there and torch.Tag.dynamic_output_shape in func.tags and func is not aten.index.Tensor:
            self._complain(func, "has a result whose shape depends on values")
        if func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default) and there:
            indices = [one for one in args[1] if one is not None]
            if any(one.dtype in MASKS for one in indices):
                self._complain(func, "has a result whose shape depends on values")
            if any(one.device.type != self.device_type for one in indices):
                self._complain(func, "copies its indices from pageable memory")
        if func is aten.lift_fresh.default and there:
            self._complain(func, "copies Python's numbers from pageable memory")
        if func is aten._to_copy.default and kwargs.get("device") is not None:
            self._check_copy(func, args[0], torch.device(kwargs["device"]), kwargs.get("non_blocking"), None)
        if func is aten.copy_.default:
            non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
            self._check_copy(func, args[1], args[0].device, non_blocking, args[0])
        is_view = func is aten.detach.default and self._is_pinned(args[0])
        is_pinned = kwargs.pop("pin_memory", False) or is_view
        out = func(*args, **kwargs)
        return self._pin(out) if is_pinned else out

    def _check_copy(
        self,
        func: Any,
        source: Tensor,
        device: torch.device,
        non_blocking: bool | None,
        target: Tensor | None,
    ) -> None:
        if self.device_type not in (source.device.type, device.type) or source.device.type == device.type:
            return
        of_host = source if source.device.type == "cpu" else target
        if of_host is None or not self._is_pinned(of_host):
            self._complain(func, f"copies from {source.device.type} to {device.type} by pageable memory")
        if not non_blocking:
            self._complain(func, f"copies from {source.device.type} to {device.type} and waits")

    def _pin(self, tensor: Tensor) -> Tensor:
        self._pinned.append(tensor)
        return tensor

    def _is_pinned(self, tensor: Tensor) -> bool:
        return any(tensor is one for one in self._pinned)

    def _complain(self, func: Any, what: str) -> None:
        raise AssertionError(f"{func} {what}")


class FakeEvent:
    """A CUDA event that has happened when the test says so: at the time `done_at_ms`, if it is set."""

    recorded: list["FakeEvent"] = []  # noqa: RUF012 - emptied by `fake_events`

    def __init__(self, enable_timing: bool = False) -> None:
        self.done_at_ms: float | None = None
        self.num_waits = 0

    def record(self) -> None:
        FakeEvent.recorded.append(self)

    def query(self) -> bool:
        return self.done_at_ms is not None

    def synchronize(self) -> None:
        self.num_waits += 1
        self.done_at_ms = self.done_at_ms or 0.0

    def elapsed_time(self, later: "FakeEvent") -> float:
        assert self.done_at_ms is not None
        assert later.done_at_ms is not None
        return later.done_at_ms - self.done_at_ms


@contextlib.contextmanager
def fake_events(setattr_: Callable[..., None]) -> Iterator[list[FakeEvent]]:
    """Replace torch's CUDA events by `setattr_`, monkeypatch's. Yields those that are recorded."""
    FakeEvent.recorded = []
    setattr_(torch.cuda, "Event", FakeEvent)
    yield FakeEvent.recorded
