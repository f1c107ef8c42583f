"""Listening for the signals by which a terminal, a scheduler or a launcher asks a process to stop."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# A scheduler's word that the job's time is nearly up: to be started again, where SIGTERM means the end.
WARNING = signal.SIGUSR2
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, WARNING)


@contextmanager
def stop_signals_to(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Inside, stop signals reach `handler`; afterwards the former handlers again. Main thread only.

    What was ignored on purpose, such as SIGHUP under nohup, stays ignored.
    """
    heard = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    former = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, before in former.items():
            signal.signal(number, before)


class StopFlag:
    """Whether a stop signal has come, which, and whether it was a scheduler's warning."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.warned = False

    def raise_(self, number: int, _: FrameType | None) -> None:
        """The handler: notes the signal, and nothing else."""
        self.signal = signal.Signals(number)
        self.warned |= number == WARNING


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Inside, a stop signal raises the flag; the training loop acts on it at a step boundary."""
    flag = StopFlag()
    with stop_signals_to(flag.raise_):
        yield flag
