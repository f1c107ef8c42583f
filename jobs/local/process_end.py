"""The end of a process that may have imported torch."""

import atexit
import ctypes
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from jobs import exit_codes


def exit_with(task: Callable[[], int | None]) -> NoReturn:
    """Run a task, and end this process with the exit code that it returns or raises.

    Threads are waited for, functions of `atexit` are called, and what Python and C libraries have printed is
    written, as at the end of any Python. Modules and objects are not torn down, which takes Python a second
    after an import of torch; so a file that was left open loses what is still in its buffer. Output that
    cannot be written gives FAILURE. After an interrupt that nothing has caught, the process dies of SIGINT.
    """
    code = _code_of(task)
    try:
        # multiprocessing ends its forks in the same way.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        lost = _code_of_flush()
        code = code or lost
    except SystemExit as end:  # a signal's handler raises it
        code = _code_of_exit(end)
    finally:
        ctypes.CDLL(None).fflush(None)
        if code < 0:
            signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        os._exit(code if code >= 0 else 128 - code)  # as a shell says it, where the signal is not deadly


def _code_of(task: Callable[[], int | None]) -> int:
    """Return the exit code of a task, or minus the signal that it ends by."""
    try:
        return task() or exit_codes.DONE
    except SystemExit as end:
        return _code_of_exit(end)
    except BaseException as error:
        sys.excepthook(*sys.exc_info())
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else exit_codes.FAILURE


def _code_of_exit(end: SystemExit) -> int:
    """Return the code of `sys.exit`, which prints what is no number."""
    if isinstance(end.code, int | None):
        return (end.code or exit_codes.DONE) % 256
    _print_error(str(end.code))
    return exit_codes.FAILURE


def _code_of_flush() -> int:
    """Flush stdout and stderr. Returns FAILURE if output is lost, and prints why.

    If the reader has closed its pipe, nothing is printed.
    """
    code = exit_codes.DONE
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except ValueError:  # it was closed or detached: all was written
            continue
        except OSError as error:
            code = exit_codes.FAILURE
            if error.errno != errno.EPIPE:
                _print_error(f"error: {getattr(stream, 'name', 'output')}: {error.strerror}")
    return code


def _print_error(sentence: str) -> None:
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(sentence, file=sys.stderr, flush=True)
