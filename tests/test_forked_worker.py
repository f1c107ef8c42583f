"""xdist's workers: forks that talk through another process's pipes, or fresh Pythons."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from unittest import mock

import pytest

from tests.helpers import forked_worker
from tests.helpers.shared_server import ROOT, WORKERS_VARIABLE, worker_server

# Like the line that execnet starts a worker with, it reads and writes through the pipes.
LOOK = """
import sys
print(sys.stdin.readline(), *(name in sys.modules for name in ("pytest", "tests.test_launch")))
"""
WAIT = """
import time
try:
    print('up', flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print('interrupted')
"""


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with mock.patch.dict(os.environ), worker_server([str(ROOT / "tests" / "test_launch.py")]):
        yield


def begin(code: str, **env: str) -> "subprocess.Popen[str]":
    """Start this stand-in for a Python as execnet does."""
    return subprocess.Popen(
        [sys.executable, forked_worker.__file__, "-u", "-c", code],
        env=os.environ | env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.usefixtures("server")
def test_a_fork_has_what_tests_import_and_not_the_tests() -> None:
    out, err = begin(LOOK).communicate("ready\n", timeout=60)
    assert (out.split(), err) == (["ready", "True", "False"], "")


@pytest.mark.usefixtures("server")
def test_its_end_and_its_last_words_are_passed_on() -> None:
    worker = begin("import os, sys; sys.stderr.write('torn'); sys.stderr.flush(); os.kill(os.getpid(), 9)")
    assert worker.communicate(timeout=60) == ("", "torn")
    assert worker.returncode == 256 - signal.SIGKILL


@pytest.mark.usefixtures("server")
def test_an_interrupt_is_passed_on() -> None:
    worker = begin(WAIT)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "up\n"
    worker.send_signal(signal.SIGINT)
    assert worker.communicate(timeout=60) == ("interrupted\n", "")
    assert worker.returncode == 0


def test_without_a_server_it_is_a_fresh_python() -> None:
    out, err = begin(LOOK, **{WORKERS_VARIABLE: "/nowhere/socket"}).communicate("ready\n", timeout=60)
    assert out.split() == ["ready", "False", "False"]
    assert err.startswith("this worker imports everything itself, as it was not forked: ")
