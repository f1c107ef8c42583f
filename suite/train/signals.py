"""Stop signals: a handler only raises a flag; the training loop acts on it at a step boundary."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP)


class StopFlag:
    """Whether a stop signal has come, and which."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def raise_(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number)


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Listen for stop signals inside; the former handlers come back afterwards. Main thread only."""
    flag = StopFlag()
    # What was ignored on purpose, such as SIGHUP under nohup, stays ignored.
    heard = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    former = {number: signal.signal(number, flag.raise_) for number in heard}
    try:
        yield flag
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
