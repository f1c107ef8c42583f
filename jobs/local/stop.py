"""Stop signals to the launcher: the first asks its runs to checkpoint and end, a second Ctrl-C ends them."""

import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from suite.signals import stop_signals_to

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
    """Inside, stop signals are noted, for `forward` to hand on."""
    stop = Stop()
    with stop_signals_to(stop.handle):
        yield stop
