"""The end of a process that may have imported torch."""

import atexit
import errno
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from jobs import exit_codes


def exit_with(task: Callable[[], int | None]) -> NoReturn:
    """Run a task, and end this process with the exit code that it returns or raises.

    Threads are waited for, functions of `atexit` are called and output is written, as at the end of any
    Python. Modules and objects are not torn down, which takes Python a second after an import of torch.
    """
    try:
        code = task() or exit_codes.DONE
    except SystemExit as end:
        code = end.code or exit_codes.DONE if isinstance(end.code, int | None) else exit_codes.FAILURE
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        code = exit_codes.FAILURE
        sys.excepthook(*sys.exc_info())
    # multiprocessing ends its forks in the same way.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    lost = _code_of_flush()
    os._exit(code or lost)


def _code_of_flush() -> int:
    """Write what is left of the output. Returns FAILURE if some of it is lost, which is reported.

    The reader of a pipe that is closed wants no more of it, and no report.
    """
    code = exit_codes.DONE
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError as error:
            code = exit_codes.FAILURE
            if error.errno != errno.EPIPE:
                with suppress(OSError):
                    print(f"error: {stream.name}: {error.strerror}", file=sys.stderr, flush=True)
    return code
