"""Ends waits for data that have stopped coming: a loader that hangs raises no error by itself."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, Self

from suite.data.loader import Batch, Loader
from suite.signals import StopFlag

POLL_S = 1.0
SLACK_S = 10.0
"""How much later than a loader that measures its own time, whose error says more."""
STOP_PATIENCE_S = 20.0
"""How long a batch may take after a stop request; schedulers kill after thirty seconds at the earliest."""

Silence = Literal["failed", "stopped"]


class WaitTimer:
    """Measures waits for a batch. A context manager, in which a thread calls `end` when one is too long."""

    def __init__(self, timeout_s: float, end: Callable[[], None]) -> None:
        self.is_over = False
        """Whether `end` has been called."""
        self._timeout_s, self._end = timeout_s, end
        self._waiting_since_s: float | None = None
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
        self._waiting_since_s = time.monotonic()
        try:
            yield
        finally:
            self._waiting_since_s = None

    def _poll(self) -> None:
        while not self._closed.wait(min(POLL_S, self._timeout_s)):
            self._look()

    def _look(self) -> None:
        waited_s = self._waited_s()
        if waited_s is not None and waited_s > self._timeout_s and not self.is_over:
            self.is_over = True
            self._end()

    def _waited_s(self) -> float | None:
        since_s = self._waiting_since_s
        return None if since_s is None else time.monotonic() - since_s


class DataWatch(WaitTimer):
    """Measures the waits of all loaders that `suite.data` returns in this process.

    `timeout_s`: the longest wait. `stop`: after a stop signal the wait is shorter. `end` is called with what
    the wait means and a sentence; it does not return, because native code that waits cannot be interrupted.
    """

    current: "DataWatch | None" = None

    def __init__(self, timeout_s: float, stop: StopFlag, end: Callable[[Silence, str], None]) -> None:
        super().__init__(timeout_s + SLACK_S, self._fail)
        self._limit_s, self._stop, self._end_process = timeout_s, stop, end
        self._stopped_at_s: float | None = None

    def __enter__(self) -> Self:
        DataWatch.current = self
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        DataWatch.current = None
        super().__exit__()

    def _look(self) -> None:
        super()._look()
        self._stop.look()
        if self._stop.signal is None:
            return
        self._stopped_at_s = self._stopped_at_s or time.monotonic()
        waited_s, stopped_s = self._waited_s(), time.monotonic() - self._stopped_at_s
        if waited_s is not None and min(waited_s, stopped_s) > STOP_PATIENCE_S:
            sentence = f"the loader has given no batch for {waited_s:.0f} s, so the last checkpoint is kept"
            self._end_process("stopped", sentence)

    def _fail(self) -> None:
        limit = f"for longer than system.collective_timeout_s ({self._limit_s:g} s)"
        self._end_process("failed", f"the loader gave no batch {limit}: a file or a mount may hang")


class WatchedLoader:
    """A loader whose waits this process's `DataWatch`, if there is one, measures."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self.bad_images = loader.bad_images

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self._loader)
        while (batch := _watched_next(batches)) is not None:
            yield batch

    def close(self) -> None:
        self._loader.close()


def _watched_next(batches: Iterator[Batch]) -> Batch | None:
    if DataWatch.current is None:
        return next(batches, None)
    with DataWatch.current.waiting():
        return next(batches, None)
