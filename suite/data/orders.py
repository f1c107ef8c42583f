"""The orders of a run's images by epoch, computed before they are needed. Numpy only.

An order is a pure function of the epoch, so it does not matter where or when it is computed.
"""

import threading
from collections.abc import Callable

from suite.data.index import Int64s

WORTH_A_THREAD = 100_000
"""Images from which on ordering them would show between two batches; a million take most of a second."""


class EpochOrders:
    """The order of one epoch, and of the next, which a thread computes meanwhile.

    `order` returns the images of an epoch by position; it sorts, so that it leaves Python to other threads.
    """

    def __init__(self, order: Callable[[int], Int64s], num_images: int) -> None:
        self._order, self._is_worth_a_thread = order, num_images >= WORTH_A_THREAD
        self._current: tuple[int, Int64s] | None = None
        self._next: tuple[int, threading.Thread] | None = None
        self._found: dict[int, Int64s] = {}

    def of(self, epoch: int) -> Int64s:
        """Return the image at each position of an epoch."""
        if self._current is None or self._current[0] != epoch:
            self._current = epoch, self._computed(epoch)
            if self._is_worth_a_thread:
                self._begin(epoch + 1)
        return self._current[1]

    def _computed(self, epoch: int) -> Int64s:
        if self._next is not None and self._next[0] == epoch:
            self._next[1].join()
        # In a process that was forked meanwhile, the thread has ended and has found nothing.
        order_N = self._found.pop(epoch, None)
        return self._order(epoch) if order_N is None else order_N

    def _begin(self, epoch: int) -> None:
        self._found.clear()

        def compute() -> None:
            self._found[epoch] = self._order(epoch)

        thread = threading.Thread(target=compute, name="next-order", daemon=True)
        self._next = epoch, thread
        thread.start()
