"""Stop signals to the launcher: the first asks its runs to checkpoint and end, a second Ctrl-C kills them."""

import signal
from collections.abc import Sequence
from types import FrameType

from jobs.local.process import RunProcess

# A closing terminal hangs up twice, and a scheduler warns by SIGUSR2 before it terminates: neither is urgent.
URGENT = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """The first stop signal received, and the signals that have not been forwarded yet."""

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self._was_urged = False
        self._to_send: list[signal.Signals] = []

    def handle(self, number: int, _: FrameType | None) -> None:
        """Note the signal; this is the handler, for `stop_signals_to`."""
        if self.first is None:
            self._to_send.append(signal.SIGTERM)
            self.first = signal.Signals(number)
        elif number in URGENT and self._was_urged:
            self._to_send.append(signal.SIGKILL)
        self._was_urged |= number in URGENT

    def forward(self, processes: Sequence[RunProcess]) -> None:
        """Send what was noted since the last call. The handler cannot: a process may be starting then."""
        while self._to_send:
            number = self._to_send.pop(0)
            for process in processes:
                process.send_signal(number)
