"""Handles the signals by which a terminal, a scheduler or a launcher asks a process to stop."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# A scheduler's warning that the job's time is nearly up: the run will be restarted. SIGTERM ends it.
WARNING = signal.SIGUSR2
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, WARNING)


@contextmanager
def stop_signals_to(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Send stop signals to `handler`; restore the former handlers at the end. Main thread only.

    A signal that is ignored on purpose, such as SIGHUP under nohup, stays ignored.
    """
    handled = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    former = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, before in former.items():
            signal.signal(number, before)


class StopFlag:
    """The last stop signal, or None; `warned` is true after a scheduler's warning."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.warned = False

    def raise_(self, number: int, _: FrameType | None) -> None:
        """Store the signal. This is the handler."""
        self.signal = signal.Signals(number)
        self.warned |= number == WARNING


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Set the flag when a stop signal comes; the training loop acts on it at a step boundary."""
    flag = StopFlag()
    with stop_signals_to(flag.raise_):
        yield flag
