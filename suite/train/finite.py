"""Learns the loss, and whether it is finite, without waiting for the device that computes it."""

import math

import torch
from torch import Tensor


class FiniteCheck:
    """Asks the device for a loss, and reads the answer when it has come.

    On a CPU it has come at once. On a GPU it is copied to pinned memory behind the work that is queued there.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._answer = torch.zeros((), dtype=torch.float32, pin_memory=self._on_gpu)
        self._copied = torch.cuda.Event() if self._on_gpu else None  # type: ignore[no-untyped-call]
        self._asked_at: int | None = None
        self.failed_at: int | None = None
        """The step of the first loss that was found not to be finite."""
        self.loss: float | None = None
        """The newest finite loss that has come; None before the first."""

    def ask(self, loss: Tensor, step: int) -> None:
        """Ask for a step's loss, (). An answer that has not come since the last time is waited for."""
        self.look(wait=True)
        self._asked_at = step
        self._answer.copy_(loss.detach(), non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def look(self, *, wait: bool = False) -> bool:
        """Return whether a loss was not finite, as far as the answers have come; `wait` for the last one."""
        if self._asked_at is not None and (wait or self._has_come()):
            if self._copied is not None:
                self._copied.synchronize()
            value = self._answer.item()
            if math.isfinite(value):
                self.loss = value
            elif self.failed_at is None:
                self.failed_at = self._asked_at
            self._asked_at = None
        return self.failed_at is not None

    def _has_come(self) -> bool:
        return self._copied is None or bool(self._copied.query())  # type: ignore[no-untyped-call]
