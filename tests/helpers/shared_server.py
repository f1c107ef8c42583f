"""The one fork server of a test session, which imports torch once for all processes that tests start."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

from jobs.local import fork_client
from jobs.local.fork_client import own_server

VARIABLE = "SHIFTBENCH_TEST_FORK_SERVER"
# Imports what training needs when the first process is wanted: many sessions need none.
_LAZY = """
import select, sys
from jobs.local import fork_server
preload = fork_server.preload
def wait_then_preload():
    select.select([int(sys.argv[1])], [], [])
    preload()
fork_server.preload = wait_then_preload
fork_server.main()
"""


@contextmanager
def shared_server() -> Iterator[None]:
    """Start the server and name it to the processes of this session, such as xdist's workers."""
    lazy = mock.patch.object(fork_client, "COMMAND", (sys.executable, "-c", _LAZY))
    with ExitStack() as stack:
        with lazy:
            path = stack.enter_context(own_server(os.environ))
        assert path is not None
        os.environ[VARIABLE] = str(path)
        yield
        del os.environ[VARIABLE]


def server_path() -> Path:
    """Return the socket of the session's server."""
    return Path(os.environ[VARIABLE])
