"""The command line called in this process, which saves the start of a Python for each call."""

import contextlib
import io
import os
import signal
import subprocess
from unittest import mock

from jobs.cli import main


def shiftbench(*arguments: object, **env: str) -> "subprocess.CompletedProcess[str]":
    """Call `shiftbench` with these arguments and variables, and return its output and exit code."""
    command = ["shiftbench", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    handler = signal.getsignal(signal.SIGINT)
    try:
        with (
            mock.patch("sys.argv", command),
            mock.patch.dict(os.environ, env),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    else:
        code = 0
    finally:
        signal.signal(signal.SIGINT, handler)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())
