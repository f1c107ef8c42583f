"""Handles the signals by which a terminal, a scheduler or a launcher asks a process to stop."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

# A scheduler's warning that the job's time is nearly up: the run will be restarted. SIGTERM ends it.
WARNING = signal.SIGUSR2
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, WARNING)
# In a scheduler's job: the seconds from its warning to the time limit, and a file whose existence asks the
# job's script to have the job queued again.
GRACE_VARIABLE, REQUEUE_VARIABLE = "SHIFTBENCH_GRACE_S", "SHIFTBENCH_TO_REQUEUE"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


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

    def __init__(self, arrivals: int | None = None) -> None:
        """`arrivals`: a descriptor to which Python's own handler writes the number of each signal."""
        self.signal: signal.Signals | None = None
        self.warned = False
        self.at_s = 0.0
        """When the first one came, by `time.monotonic`."""
        self._arrivals = arrivals

    def raise_(self, number: int, _: FrameType | None) -> None:
        """Store the signal. This is the handler."""
        self.at_s = self.at_s if self.signal else time.monotonic()
        self.signal = signal.Signals(number)
        self.warned |= number == WARNING

    def look(self) -> None:
        """Store what has come while the main thread was in native code, where no handler is called.

        For other threads.
        """
        if self._arrivals is None:
            return
        with suppress(BlockingIOError):
            for number in os.read(self._arrivals, 256):
                if number in STOP_SIGNALS:
                    self.raise_(number, None)


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Set the flag when a stop signal comes; the training loop acts on it at a step boundary."""
    arrivals, arrive = os.pipe()
    for end in (arrivals, arrive):
        os.set_blocking(end, False)
    flag, former = StopFlag(arrivals), signal.set_wakeup_fd(arrive, warn_on_full_buffer=False)
    try:
        with stop_signals_to(flag.raise_):
            yield flag
    finally:
        signal.set_wakeup_fd(former)
        for end in (arrivals, arrive):
            os.close(end)


def grace_after_warning_s() -> float:
    """Return how many seconds a scheduler leaves this process after its warning; 0 if that is not known."""
    return float(os.environ.get(GRACE_VARIABLE, "0"))


def ask_script_to_requeue(is_asked: bool, *, if_preempted: bool = False) -> None:
    """Ask the script of this scheduler's job to have it queued again, or take that back.

    `if_preempted`: only if the scheduler says that the job makes room for another one. The script asks it,
    because inside a container there is no command for that.
    """
    if (request := os.environ.get(REQUEUE_VARIABLE)) is None:
        return
    if is_asked:
        Path(request).write_text("if preempted" if if_preempted else "", encoding="utf-8")
    else:
        Path(request).unlink(missing_ok=True)


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Hold back stop signals until the end. Processes that are started meanwhile never receive them."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def signal_when_parent_ends(number: signal.Signals, parent: int | None = None) -> None:
    """Have the kernel send `number` to this process when its parent ends.

    Sends it at once if `parent` is given and has ended. Does nothing on other systems than Linux, where a
    killed launcher leaves its runs training.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if parent not in (None, os.getppid()):
        os.kill(os.getpid(), number)
