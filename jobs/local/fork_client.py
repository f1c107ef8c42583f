"""A fork server's client: starts a server of its own or uses one that runs, and follows forked processes."""

import json
import logging
import os
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
from jobs.local.fork_protocol import (
    ForkRequest,
    encode,
    ignored_signals,
    misfit,
    own_umask,
    peer_uid,
    traits,
)
from jobs.local.process import PlainProcess, ProcessSpec, StartProcess

SERVER_VARIABLE = "SHIFTBENCH_FORK_SERVER"
LOG = "server.log"
COMMAND = (sys.executable, "-m", "jobs.local.fork_server")
GREETING_S = 0.2
END_S = 30.0
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
    elif named and serves(Path(named), environment):
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
    """Ask a server to end; it passes that on to its processes, and waits for them."""
    with suppress(OSError), _connect(path) as connection:
        connection.sendall(encode({"end": True}))


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


def serves(path: Path, environment: Mapping[str, str], patience_s: float = 20.0) -> bool:
    """Whether a server at `path` forks processes that equal fresh ones with this environment."""
    try:
        with _connect(path) as connection:
            connection.settimeout(patience_s)
            greeting = connection.makefile().readline()
            name = misfit(json.loads(greeting)["traits"], traits(environment))
    except (OSError, ValueError, KeyError) as error:
        log.warning("%s=%s: no fork server answers: %s", SERVER_VARIABLE, path, error)
        return False
    return name is None


def _connect(path: Path) -> socket.socket:
    """Raises OSError."""
    connection = socket.socket(socket.AF_UNIX)
    try:
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
        self.returncode: int | None = None
        self._path, self._spec = path, spec
        self._pid: int | None = None
        self._is_requested = False
        self._code_when_gone: int | None = None  # set when the server does not report the end
        self._plain: PlainProcess | None = None
        self._received = b""
        self._connection = socket.socket(socket.AF_UNIX)
        self._log = spec.log.open("ab")
        try:
            self._connection = _connect(path)
        except OSError as error:
            self._start_plain(f"it cannot be reached: {error}")
        else:
            self._receive(GREETING_S)

    def poll(self) -> int | None:
        if self.returncode is not None:
            return self.returncode
        if self._plain is None and self._code_when_gone is None:
            self._receive(0.0)
        if self._plain is not None:
            self.returncode = self._plain.poll()
        elif self._code_when_gone is not None and self._pid is not None and is_gone(self._pid):
            self.returncode = self._code_when_gone
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
        elif not self._is_requested:  # nothing has begun
            self._connection.close()
            self._log.close()
            self.returncode = -number
        elif number == signal.SIGKILL and self._pid is not None:  # also when the server does not answer
            with suppress(ProcessLookupError):
                os.killpg(self._pid, number)
            self._code_when_gone = -number
        elif self._code_when_gone is not None and self._pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._pid, number)
        else:
            with suppress(OSError):  # the server is gone: its processes have received SIGTERM
                self._connection.sendall(encode({"signal": int(number)}))

    def _receive(self, timeout_s: float) -> None:
        """Act on what the server has sent, waiting so long for its first word."""
        while self._plain is None and self.returncode is None:
            if not select.select([self._connection], [], [], timeout_s)[0]:
                return
            try:
                data = self._connection.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                self._note_loss()
                return
            *lines, self._received = (self._received + data).split(b"\n")
            for line in lines:
                self._act_on(json.loads(line))

    def _act_on(self, message: dict[str, Any]) -> None:
        if "traits" in message:
            if name := misfit(message["traits"], traits(self._spec.environment)):
                self._start_plain(f"it was started with another {name}")
            else:
                self._request()
        elif "pid" in message:
            self._pid = message["pid"]
            self._log.close()
        elif "refused" in message:
            self._start_plain(message["refused"])
        else:
            self.returncode = message["code"]
            self._connection.close()

    def _request(self) -> None:
        request = ForkRequest(
            self._spec.module,
            self._spec.arguments,
            dict(self._spec.environment),
            own_umask(),
            ignored_signals(),
            self._spec.ranks,
        ).encode()
        cwd = os.open(".", os.O_RDONLY)
        try:
            sent = socket.send_fds(self._connection, [request], [self._log.fileno(), cwd])
            self._connection.sendall(request[sent:])
        except OSError:  # the server has ended, or has refused before this line: what can be read says so
            pass
        finally:
            self._is_requested = True
            os.close(cwd)

    def _note_loss(self) -> None:
        """Act on the server's end. The kernel has sent SIGTERM to its processes, which end by themselves."""
        if self._pid is None:
            lines = [""]
            with suppress(OSError):
                lines += (self._path.parent / LOG).read_text().split("\n")
            self._start_plain(f"it has ended. {next(filter(None, reversed(lines)), '')}")
            return
        log.error("the fork server of process %d has ended: the process was asked to stop", self._pid)
        self._connection.close()
        self._code_when_gone = exit_codes.FAILURE

    def _start_plain(self, reason: str) -> None:
        sentence = f"the fork server does not serve {self._spec.module}, which is started afresh: {reason}"
        log.warning("%s", sentence)
        self._log.write(f"{sentence}\n".encode())
        self._log.close()
        self._connection.close()
        try:
            self._plain = PlainProcess(self._spec)
        except OSError as error:
            log.error("%s could not be started: %s", self._spec.module, error)
            self.returncode = exit_codes.FAILURE


def is_gone(pid: int) -> bool:
    """Whether a process has ended, or has only its parent's `wait` ahead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
