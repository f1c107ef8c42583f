"""Ends waits for data that have stopped coming: a loader that hangs raises no error by itself."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Literal, Self, TypeVar

from suite.data.loader import BatchLoader
from suite.signals import StopFlag, grace_after_warning_s

POLL_S = 1.0
SLACK_S = 10.0
"""How much later than a loader that measures its own time, whose error says more."""
STOP_PATIENCE_S = 20.0
"""How long a batch may take after SIGTERM; schedulers kill after thirty seconds at the earliest."""
END_S = 10.0
"""How long before the time after a warning runs out a process that waits is ended."""

Silence = Literal["failed", "stopped"]
BatchT = TypeVar("BatchT")


class WaitTimer:
    """Measures waits for a batch. A context manager, in which a thread calls `end` when one is too long."""

    def __init__(self, timeout_s: float, end: Callable[[], None]) -> None:
        self.is_over = False
        """Whether `end` has been called."""
        self._timeout_s, self._end = timeout_s, end
        self._waited_s = 0.0
        self._num_waits, self._is_waiting = 0, False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="waits-for-data", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure the time inside."""
        self._num_waits += 1
        self._is_waiting = True
        try:
            yield
        finally:
            self._is_waiting = False

    def _poll(self) -> None:
        every_s = min(POLL_S, self._timeout_s / 16)
        last_s, last_wait = time.monotonic(), 0
        while not self._closed.wait(every_s):
            now_s, wait = time.monotonic(), self._num_waits
            # Time in which the job was suspended is no waiting.
            passed_s, last_s = min(now_s - last_s, 2 * every_s), now_s
            is_the_same = self._is_waiting and wait == last_wait
            self._waited_s, last_wait = self._waited_s + passed_s if is_the_same else 0.0, wait
            self._look(passed_s)

    def _look(self, passed_s: float) -> None:
        if self._waited_s > self._timeout_s and not self.is_over:
            self.is_over = True
            self._end()


class DataWatch(WaitTimer):
    """Measures the waits of all loaders that `suite.data` returns in this process.

    `timeout_s`: the longest wait. `stop`: after a stop signal the wait is shorter, and after a scheduler's
    warning it ends before the job's time does. `end` is called with what the wait means and a sentence; it
    does not return, because native code that waits cannot be interrupted.
    """

    current: "DataWatch | None" = None

    def __init__(self, timeout_s: float, stop: StopFlag, end: Callable[[Silence, str], None]) -> None:
        super().__init__(timeout_s + SLACK_S, self._fail)
        self._limit_s, self._stop, self._end_process = timeout_s, stop, end
        self._stopped_s = 0.0

    def __enter__(self) -> Self:
        DataWatch.current = self
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        DataWatch.current = None
        super().__exit__()

    def _look(self, passed_s: float) -> None:
        super()._look(passed_s)
        self._stop.look()
        if self._stop.signal is None:
            return
        self._stopped_s += passed_s
        grace_s = grace_after_warning_s() if self._stop.warned else 0.0
        if min(self._waited_s, self._stopped_s) > max(STOP_PATIENCE_S, grace_s - END_S):
            waited = f"the loader has given no batch for {self._waited_s:.0f} s"
            self._end_process("stopped", f"{waited}, so the last checkpoint is kept")

    def _fail(self) -> None:
        limit = f"for longer than system.collective_timeout_s ({self._limit_s:g} s)"
        self._end_process("failed", f"the loader gave no batch {limit}: a file or a mount may hang")


class WatchedLoader(Generic[BatchT]):
    """A loader whose waits this process's `DataWatch`, if there is one, measures."""

    def __init__(self, loader: BatchLoader[BatchT]) -> None:
        self._loader = loader
        self.bad_images = loader.bad_images

    def __iter__(self) -> Iterator[BatchT]:
        batches = iter(self._loader)
        while (batch := _watched_next(batches)) is not None:
            yield batch

    def close(self) -> None:
        self._loader.close()


def _watched_next(batches: Iterator[BatchT]) -> BatchT | None:
    if DataWatch.current is None:
        return next(batches, None)
    with DataWatch.current.waiting():
        return next(batches, None)
