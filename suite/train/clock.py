"""The times of steps and of spans within them, by the clock of whichever device does them."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch

MomentT = TypeVar("MomentT")
# The spans of a step by name, each from one moment to another.
Spans = Mapping[str, Sequence[tuple[MomentT, MomentT]]]
TOTAL = "total"
# The time (s) of a step as `TOTAL`, and within its spans by their names.
StepTime = dict[str, float]


class HostClock:
    """The times between ticks, by `time.perf_counter`; the first begins at `now_s`."""

    def __init__(self, now_s: float) -> None:
        self._last_s = now_s

    def moment(self) -> float:
        """Return this moment, as an end of a span."""
        return time.perf_counter()

    def tick(self, spans: Spans[float]) -> list[StepTime]:
        """End a step with these spans. Return the steps that are known and were not returned before."""
        before_s, self._last_s = self._last_s, time.perf_counter()
        within = {name: sum(end - start for start, end in parts) for name, parts in spans.items()}
        return [{TOTAL: self._last_s - before_s, **within}]

    def settle(self) -> list[StepTime]:
        """As `tick` without ticking, after waiting for times that are not known yet."""
        return []


class GpuClock:
    """The times between ticks, by a GPU's events: each moment is when the work before it is done there.

    The host is ahead of the GPU, so that a time is known some steps later. Nothing waits for it. A span in
    which the host waits has a length only as far as the GPU has run out of work meanwhile.
    """

    def __init__(self) -> None:
        self._queued: deque[tuple[Any, Spans[Any]]] = deque()
        self._queued.append((self.moment(), {}))

    def moment(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def tick(self, spans: Spans[Any]) -> list[StepTime]:
        self._queued.append((self.moment(), spans))
        return self._known()

    def settle(self) -> list[StepTime]:
        self._queued[-1][0].synchronize()
        return self._known()

    def _known(self) -> list[StepTime]:
        times = []
        while len(self._queued) > 1 and self._queued[1][0].query():
            (before, _), (end, spans) = self._queued.popleft(), self._queued[0]
            within = {name: sum(_seconds(*part) for part in parts) for name, parts in spans.items()}
            times.append({TOTAL: _seconds(before, end), **within})
        return times


def _seconds(start: Any, end: Any) -> float:
    return 1e-3 * float(start.elapsed_time(end))
