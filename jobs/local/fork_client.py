"""A fork server's client: starts a server of its own or uses one that runs, and follows forked processes."""

import json
import logging
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from jobs import exit_codes
from jobs.local.fork_protocol import ignored_signals, misfit, peer_uid, send_message, signal_all, traits
from jobs.local.process import PlainProcess, ProcessSpec, StartProcess

SERVER_VARIABLE = "SHIFTBENCH_FORK_SERVER"
LOG = "server.log"
COMMAND = (sys.executable, "-m", "jobs.local.fork_server")
GREETING_S, ANSWER_S, END_S = 0.2, 20.0, 30.0
_LONGEST_SOCKET_PATH = 100  # the kernel's limit is 107 bytes

log = logging.getLogger("shiftbench")


@contextmanager
def process_starter(num_processes: int, environment: Mapping[str, str]) -> Iterator[StartProcess]:
    """Yield the function that starts processes of this machine in the quickest way.

    The server that SHIFTBENCH_FORK_SERVER names forks them, or one that is started here for several of them.
    A single process is a fresh Python, and so is one that no server can fork, which is logged.
    `environment`: what the processes have in common.
    """
    named = os.environ.get(SERVER_VARIABLE)
    if sys.platform != "linux":
        yield PlainProcess
    elif named and _serves(Path(named), environment):
        yield starter_of(Path(named))
    elif num_processes < 2:
        yield PlainProcess
    else:
        with own_server(environment) as path:
            yield starter_of(path)


def starter_of(path: Path | None) -> StartProcess:
    """Return the function that has processes forked by the server at `path`; fresh ones without a path."""
    return PlainProcess if path is None else partial(ForkedProcess, path)


@contextmanager
def own_server(environment: Mapping[str, str]) -> Iterator[Path | None]:
    """Start a fork server; yield its socket, or None where it could not be started, which is logged.

    Connections wait while it imports. It ends with this process, and at the end of the block after its own
    processes have ended.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="shiftbench-"))  # readable by this user alone
        if len(os.fsencode(folder)) > _LONGEST_SOCKET_PATH - len("/socket"):
            folder.rmdir()
            folder = Path(tempfile.mkdtemp(prefix="shiftbench-", dir="/tmp"))
        process = _start_server(folder, environment)
    except OSError as error:
        log.warning("the fork server could not be started (%s): every run imports torch itself", error)
        yield None
        return
    try:
        yield folder / "socket"
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def end_server(path: Path) -> None:
    """Ask a server to end; it asks its processes to stop, and waits for them."""
    with suppress(OSError), _connect(path) as connection:
        send_message(connection, {"end": True})


def _start_server(folder: Path, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    with socket.socket(socket.AF_UNIX) as listener, (folder / LOG).open("wb") as output:
        listener.bind(str(folder / "socket"))
        listener.listen(128)
        return subprocess.Popen(
            [*COMMAND, str(listener.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environment),
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )


def _serves(path: Path, environment: Mapping[str, str]) -> bool:
    """Whether a server at `path` forks processes that equal fresh ones with this environment."""
    try:
        with _connect(path) as connection, connection.makefile() as lines:
            return misfit(json.loads(lines.readline())["traits"], traits(environment)) is None
    except (OSError, ValueError, KeyError) as error:
        log.warning("%s=%s: no fork server answers: %s", SERVER_VARIABLE, path, error)
        return False


def _connect(path: Path) -> socket.socket:
    """Raises OSError."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(ANSWER_S)
        connection.connect(str(path))
        if (uid := peer_uid(connection)) != os.getuid():
            raise PermissionError(f"{path}: belongs to a process of user {uid}")
    except OSError:
        connection.close()
        raise
    return connection


class ForkedProcess:
    """A process that a fork server starts; where that fails, a fresh Python, which is logged.

    Does not wait for a server that still imports: `poll` sends the request when the server is ready. The
    connection is a lease: when it is closed, also by the end of this process, the other receives SIGTERM.
    """

    def __init__(self, path: Path, spec: ProcessSpec) -> None:
        spec.log.open("ab").close()  # raises OSError as for a fresh Python
        self.returncode: int | None = None
        self._path, self._spec = path, spec
        self._pids: list[int] = []
        self._plain: PlainProcess | None = None
        self._connection = socket.socket(socket.AF_UNIX)
        try:
            self._connection = _connect(path)
        except OSError as error:
            self._start_plain(f"it cannot be reached: {error}")
        else:
            self._lines = self._connection.makefile("rb")
            self._poll_server(GREETING_S)

    def poll(self) -> int | None:
        if self._plain is None and self.returncode is None:
            self._poll_server(0.0)
        if self._plain is not None:
            self.returncode = self._plain.poll()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(self._spec.module, timeout or 0.0)
            time.sleep(0.02)
        return code

    def send(self, number: signal.Signals) -> None:
        if self.poll() is not None:
            return
        if self._plain is not None:
            self._plain.send(number)
        elif self._pids:
            signal_all(self._pids, number)
        else:  # nothing has begun
            self._end(-number)

    def _poll_server(self, timeout_s: float) -> None:
        if select.select([self._connection], [], [], timeout_s)[0]:
            self._act_on(self._next_message())

    def _next_message(self) -> dict[str, Any]:
        """Return what the server has sent; nothing at the end of the connection."""
        try:
            message: dict[str, Any] = json.loads(self._lines.readline() or b"{}")
        except OSError:
            return {}
        return message

    def _act_on(self, message: Mapping[str, Any]) -> None:
        if "traits" in message:
            if name := misfit(message["traits"], traits(self._spec.environment)):
                self._start_plain(f"it was started with another {name}")
            else:
                send_message(self._connection, self._request())
                self._act_on(self._next_message())
        elif "pids" in message:
            self._pids = message["pids"]
        elif "refused" in message:
            self._start_plain(message["refused"])
        elif "code" in message:
            self._end(message["code"])
        elif not self._pids:
            last = _read(self._path.parent / LOG).rstrip().rpartition("\n")[2]
            self._start_plain(f"it has ended. {last}")
        elif all(map(is_gone, self._pids)):  # the kernel has signalled them when their supervisor was killed
            log.error("the fork server's supervisor of process %d was killed", self._pids[0])
            self._end(exit_codes.FAILURE)

    def _request(self) -> dict[str, Any]:
        """Return what the process takes from here and not from the server."""
        # os.umask would have to change it for a moment, also for other threads.
        (umask,) = re.findall(r"^Umask:\s*(\d+)", _read(Path("/proc/self/status")), re.MULTILINE)
        return {
            "module": self._spec.module,
            "arguments": self._spec.arguments,
            "environment": dict(self._spec.environment),
            "log": str(self._spec.log.absolute()),
            "cwd": str(Path.cwd()),
            "umask": int(umask, 8),
            "ignored": ignored_signals(),
            "ranks": self._spec.ranks,
        }

    def _end(self, code: int) -> None:
        self.returncode = code
        self._hang_up()

    def _hang_up(self) -> None:
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _start_plain(self, reason: str) -> None:
        sentence = f"the fork server does not serve {self._spec.module}, which is started afresh: {reason}"
        log.warning("%s", sentence)
        self._hang_up()
        try:
            with self._spec.log.open("a") as file:
                file.write(f"{sentence}\n")
            self._plain = PlainProcess(self._spec)
        except OSError as error:
            log.error("%s could not be started: %s", self._spec.module, error)
            self.returncode = exit_codes.FAILURE


def is_gone(pid: int) -> bool:
    """Whether a process has ended, or has only its parent's `wait` ahead."""
    return _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()[:1] in ([], ["Z"], ["X"])


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
