"""Work on files that a step does not wait for."""

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

log = logging.getLogger("shiftbench")


class Background:
    """Does pieces of work on a thread of its own, one after another.

    An error ends the run as if the work had been done in place: the next call raises it.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._begun: deque[Future[object]] = deque()

    def begin(self, work: Callable[[], object]) -> None:
        """Do `work` after what was begun before. Raises the error of a former piece."""
        self.check()
        self._begun.append(self._thread.submit(work))

    def check(self) -> bool:
        """Return whether all work is done. Raises the error of a piece that has failed."""
        while self._begun and self._begun[0].done():
            self._begun.popleft().result()
        return not self._begun

    def wait(self) -> None:
        """Wait until all work is done. Raises the first error; what was begun after it is done, too."""
        while self._begun:
            self._begun.popleft().result()

    def close(self) -> None:
        """Wait, and end the thread. Logs errors that no call has raised: the run is ending by another one."""
        self._thread.shutdown()
        while self._begun:
            if (error := self._begun.popleft().exception()) is not None:
                log.error("%s: %s", type(error).__name__, error)
