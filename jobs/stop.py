"""Stop signals to the launcher: the first asks its runs to checkpoint and end, a second Ctrl-C ends them."""

import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
# A closing terminal hangs up twice, and a scheduler warns by SIGUSR2 before it terminates: neither is haste.
URGENT = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """What has come so far, and what is still to be sent to the runs."""

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self._was_urged = False
        self._to_send: list[signal.Signals] = []

    def handle(self, number: int, _: FrameType | None) -> None:
        """The handler: notes the signal."""
        if self.first is None:
            self._to_send.append(signal.SIGTERM)
            self.first = signal.Signals(number)
        elif number in URGENT and self._was_urged:
            self._to_send.append(signal.SIGKILL)
        self._was_urged |= number in URGENT

    def forward(self, processes: Iterable["subprocess.Popen[bytes]"]) -> None:
        """Send what came since the last call. Not from the handler: a process may be about to start there."""
        pending, self._to_send = self._to_send, []
        for number in pending:
            send(number, processes)


def send(number: signal.Signals, processes: Iterable["subprocess.Popen[bytes]"]) -> None:
    """To every process that still runs, and its children in its session."""
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, number)


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Listen inside; the former handlers come back afterwards. What nohup ignores stays ignored."""
    stop = Stop()
    heard = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    former = {number: signal.signal(number, stop.handle) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
