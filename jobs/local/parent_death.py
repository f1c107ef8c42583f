"""Ties a process to the one that started it, so that it also ends when that one is killed. Linux only."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def signal_when_parent_ends(number: signal.Signals) -> None:
    """Have the kernel send `number` to this process when its parent ends. Raises OSError.

    Does nothing on other systems, where a killed launcher leaves its runs training.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl: {os.strerror(code)}")
