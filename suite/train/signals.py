"""Stop signals: a handler only raises a flag; the training loop acts on it at a step boundary."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from suite.signals import stop_signals_to


class StopFlag:
    """Whether a stop signal has come, and which."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def raise_(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number)


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Inside, a stop signal raises the flag and nothing else."""
    flag = StopFlag()
    with stop_signals_to(flag.raise_):
        yield flag
