"""The fork servers of a test session, which import once what its processes would import.

One has imported torch and forks runs and functions, one has imported Ray and forks drivers, and one has
imported what all tests import and forks xdist's workers.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

from jobs.local import fork_client
from jobs.local.fork_client import own_server
from tests.helpers.stand_in import stand_in

ROOT = Path(__file__).parents[2]
VARIABLE, DRIVERS_VARIABLE = "SHIFTBENCH_TEST_FORK_SERVER", "SHIFTBENCH_TEST_DRIVER_SERVER"
WORKERS_VARIABLE, PATHS_VARIABLE = "SHIFTBENCH_TEST_WORKER_SERVER", "SHIFTBENCH_TEST_PATHS"
NO_THREADS = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}  # no fork would have the thread
FOR_DRIVERS = {**NO_THREADS, "RAY_AUTH_MODE": "token"}  # Ray reads it when it is imported; it is the default
# Imports when the first process is wanted: many sessions need none.
_LAZY = f"""
import select, sys
sys.path.insert(0, {str(ROOT)!r})
from jobs.local import fork_server
from MODULE import preload
def wait_then_preload():
    select.select([int(sys.argv[1])], [], [])
    import pytest  # else each fork would that calls a function of a test
    preload()
fork_server.preload = wait_then_preload
fork_server.main()
"""


@contextmanager
def shared_servers() -> Iterator[None]:
    """Start the servers and name them to the processes of this session, such as xdist's workers."""
    drivers = {**os.environ, **stand_in(), **FOR_DRIVERS}
    with ExitStack() as stack:
        runs_at = stack.enter_context(_lazy_server("jobs.local.fork_server", os.environ))
        drivers_at = stack.enter_context(_lazy_server("tests.helpers.driver", drivers))
        os.environ |= {VARIABLE: str(runs_at), DRIVERS_VARIABLE: str(drivers_at)}
        yield
        del os.environ[VARIABLE], os.environ[DRIVERS_VARIABLE]


@contextmanager
def worker_server(paths: list[str]) -> Iterator[None]:
    """Start the server of xdist's workers, which have imported what the tests at `paths` import."""
    environment = {**os.environ, **NO_THREADS, PATHS_VARIABLE: json.dumps(paths)}
    with _lazy_server("tests.helpers.forked_worker", environment) as path:
        os.environ[WORKERS_VARIABLE] = str(path)
        yield
        del os.environ[WORKERS_VARIABLE]


@contextmanager
def _lazy_server(module: str, environment: Mapping[str, str]) -> Iterator[Path]:
    """Start a server which imports what `preload` of a module does."""
    command = (sys.executable, "-c", _LAZY.replace("MODULE", module))
    with ExitStack() as stack:
        with mock.patch.object(fork_client, "COMMAND", command):
            path = stack.enter_context(own_server(environment))
        assert path is not None
        yield path


def server_path() -> Path:
    """Return the socket of the session's server that forks runs and functions."""
    return Path(os.environ[VARIABLE])


def drivers_path() -> Path:
    """Return the socket of the session's server that forks drivers, which use the stand-in trainer."""
    return Path(os.environ[DRIVERS_VARIABLE])
