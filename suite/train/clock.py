"""The times of steps, by the clock of whichever device does them."""

import time
from collections import deque

import torch


class HostClock:
    """The times between ticks, by `time.perf_counter`; the first begins at `now_s`."""

    def __init__(self, now_s: float) -> None:
        self._last_s = now_s

    def tick(self) -> list[float]:
        """Return the times (s) that are known and were not returned before, in order."""
        before_s, self._last_s = self._last_s, time.perf_counter()
        return [self._last_s - before_s]

    def settle(self) -> list[float]:
        """As `tick` without ticking, after waiting for times that are not known yet."""
        return []


class GpuClock:
    """The times between ticks, by a GPU's events: each tick is when the work before it is done there.

    The host is ahead of the GPU, so that a time is known some steps later. Nothing waits for it.
    """

    def __init__(self) -> None:
        self._queued: deque[torch.cuda.Event] = deque()
        self.tick()

    def tick(self) -> list[float]:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._queued.append(event)
        return self._known()

    def settle(self) -> list[float]:
        self._queued[-1].synchronize()
        return self._known()

    def _known(self) -> list[float]:
        times_s = []
        while len(self._queued) > 1 and self._queued[1].query():  # type: ignore[no-untyped-call]
            first = self._queued.popleft()
            times_s.append(1e-3 * first.elapsed_time(self._queued[0]))
        return times_s
