"""Learns whether losses are finite without waiting for the device that computes them."""

import torch
from torch import Tensor


class FiniteCheck:
    """Asks the device whether a loss is finite, and reads the answer when it has come.

    On a CPU it has come at once. On a GPU it is copied to pinned memory behind the work that is queued there.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._answer = torch.ones((), dtype=torch.bool, pin_memory=self._on_gpu)
        self._copied = torch.cuda.Event() if self._on_gpu else None  # type: ignore[no-untyped-call]
        self._asked_at: int | None = None
        self.failed_at: int | None = None
        """The step of the first loss that was found not to be finite."""

    def ask(self, loss: Tensor, step: int) -> None:
        """Ask about a step's loss, (). An answer that has not come since the last time is waited for."""
        self.look(wait=True)
        self._asked_at = step
        self._answer.copy_(torch.isfinite(loss.detach()), non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def look(self, *, wait: bool = False) -> bool:
        """Return whether a loss was not finite, as far as the answers have come; `wait` for the last one."""
        if self._asked_at is not None and (wait or self._has_come()):
            if self._copied is not None:
                self._copied.synchronize()
            if self.failed_at is None and not self._answer.item():
                self.failed_at = self._asked_at
            self._asked_at = None
        return self.failed_at is not None

    def _has_come(self) -> bool:
        return self._copied is None or bool(self._copied.query())  # type: ignore[no-untyped-call]
