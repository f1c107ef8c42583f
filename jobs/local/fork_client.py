"""A fork server's client: starts a server of its own or uses one that runs, and follows forked processes.

The protocol is lines of JSON, over a connection for each process. The server greets with its traits. The
client sends its request, and the server answers `{"pids": [N, …]}`, one for each rank, or `{"refused": WHY}`;
at the end `{"code": N}`. When a client closes its connection, its processes receive SIGTERM.
"""

import json
import logging
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from jobs import exit_codes
from jobs.local.process import THREADS, PlainProcess, ProcessSpec, RunProcess, StartProcess, end
from suite.provenance import ROOT, SOURCE_PACKAGES

SERVER_VARIABLE = "SHIFTBENCH_FORK_SERVER"
LOG = "server.log"
COMMAND = (sys.executable, "-m", "jobs.local.fork_server")
ANSWER_S = 120.0
# What libraries and Python itself read when they are loaded; a fork cannot change it any more.
READ_AT_IMPORT = (
    *("LD_", "LC_", "LANG", "GLIBC_TUNABLES", "MALLOC_"),
    *("GOMP_", "KMP_", "MKL_", "OMP_", "OPENBLAS_"),
    *("ATEN_", "DNNL_", "ONEDNN_", "PYTORCH_", "TORCH_"),
    *("PYTHONHASHSEED", "PYTHONHOME", "PYTHONOPTIMIZE", "PYTHONPATH", "PYTHONSAFEPATH", "PYTHONUTF8"),
)

log = logging.getLogger("shiftbench")


@contextmanager
def process_starter(num_processes: int, environment: Mapping[str, str]) -> Iterator[StartProcess]:
    """Yield the function that starts processes of this machine: by a fork server, else as fresh Pythons.

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
    return PlainProcess if path is None else partial(_fork_or_start, path)


def _fork_or_start(path: Path, spec: ProcessSpec) -> RunProcess:
    """Start a fresh Python where the server does not fork, which is logged. Raises OSError."""
    try:
        return ForkedProcess(path, spec)
    except OSError as error:
        sentence = f"the fork server does not serve {spec.module}, which is started afresh: {error}"
        log.warning("%s", sentence)
        with spec.log.open("a") as file:
            file.write(f"{sentence}\n")
        return PlainProcess(spec)


@contextmanager
def own_server(environment: Mapping[str, str]) -> Iterator[Path | None]:
    """Start a fork server; yield its socket, or None where it could not be started, which is logged.

    Connections wait while it imports. It ends with this process, and at the end of the block after its own
    processes have ended.
    """
    path = None
    with ExitStack() as stack:
        try:
            # Readable by this user alone. TMPDIR may be too long for the name of a socket.
            folder = tempfile.TemporaryDirectory(prefix="shiftbench-", dir="/tmp", ignore_cleanup_errors=True)
            path = Path(stack.enter_context(folder), "socket")
            stack.callback(end, [_start_server(path, environment)])
        except OSError as error:
            log.warning("the fork server could not be started (%s): every run imports torch itself", error)
            path = None
        yield path


def end_server(path: Path) -> None:
    """Ask a server to end; it asks its processes to stop, and waits for them."""
    with suppress(OSError), _connect(path) as connection:
        send_message(connection, {"end": True})


def _start_server(path: Path, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    with socket.socket(socket.AF_UNIX) as listener, path.with_name(LOG).open("wb") as output:
        listener.bind(str(path))
        listener.listen(128)
        return subprocess.Popen(
            [*COMMAND, str(listener.fileno()), str(os.getpid())],
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
            greeting = json.loads(lines.readline())
        if "traits" not in greeting:
            raise OSError(greeting["refused"])
        if name := misfit(greeting["traits"], traits(environment)):
            raise OSError(f"it was started with another {name}")
    except (OSError, ValueError, KeyError) as error:
        log.warning("%s=%s: this fork server is not used: %s", SERVER_VARIABLE, path, error)
        return False
    return True


def _connect(path: Path) -> socket.socket:
    """Raise OSError."""
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
    """A process that a fork server has forked. Waits for a server that still imports.

    The connection is a lease: when it is closed, also by the end of this process, the fork receives SIGTERM.
    Raises OSError when the server cannot be reached or does not fork.
    """

    def __init__(self, path: Path, spec: ProcessSpec) -> None:
        self.returncode: int | None = None
        self._path, self._spec = path, spec
        self._connection = _connect(path)
        self._lines = self._connection.makefile(
            "rb", buffering=0
        )  # so that `_is_readable` sees every message
        try:
            if name := misfit(self._next_message()["traits"], traits(spec.environment)):
                raise OSError(f"it was started with another {name}")
            send_message(self._connection, self._request())
            self._pids: list[int] = self._next_message()["pids"]
        except OSError:
            self._connection.close()
            raise

    def poll(self) -> int | None:
        while self.returncode is None and self._is_readable():
            try:
                message = self._next_message()
            except OSError:
                if all(map(is_gone, self._pids)):  # the kernel has signalled them
                    log.error("the fork server's supervisor of processes %s was killed", self._pids)
                    self.returncode = exit_codes.FAILURE
                break
            if "ended" in message:
                self._pids.remove(message["ended"])
            else:
                self.returncode = message["code"]
        return self.returncode

    def _is_readable(self, timeout_s: float = 0.0) -> bool:
        poller = select.poll()  # `select.select` refuses file descriptors above 1023
        poller.register(self._connection, select.POLLIN)
        return bool(poller.poll(1e3 * timeout_s))

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (code := self.poll()) is None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise subprocess.TimeoutExpired(self._spec.module, timeout or 0.0)
            if self._is_readable():  # the supervisor was killed, and its processes have not ended yet
                time.sleep(0.02)
            else:
                self._is_readable(min(left_s, 60.0))
        return code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            signal_all(self._pids, sig)

    def _next_message(self) -> dict[str, Any]:
        """Raise OSError for a refusal, and at the end of the connection."""
        message: dict[str, Any] = {}
        with suppress(ConnectionResetError):
            message = json.loads(self._lines.readline() or b"{}")
        if not message:
            last = (self._path.parent / LOG).read_text().rstrip().rpartition("\n")[2]
            raise OSError(f"it has ended. {last}")
        if "refused" in message:
            raise OSError(message["refused"])
        return message

    def _request(self) -> dict[str, Any]:
        """Return what the process takes from here and not from the server."""
        # os.umask would have to change it for a moment, also for other threads.
        (umask,) = re.findall(r"^Umask:\s*(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
        spec = {**vars(self._spec), "log": str(self._spec.log.absolute())}
        spec["environment"] = dict(self._spec.environment)
        return {**spec, "cwd": str(Path.cwd()), "umask": int(umask, 8), "ignored": ignored_signals()}


def is_gone(pid: int) -> bool:
    """Whether a process has ended, or is a zombie."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    return True


# ------------------------------------------------------------ both ends of a connection


def send_message(connection: socket.socket, message: Mapping[str, Any]) -> None:
    """Send one line, unless the other end is gone. Names that are no UTF-8 survive, as lone surrogates."""
    with suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")


def traits(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what a process with this environment cannot change once it runs; a fork has its server's."""
    found = {name: value for name, value in environment.items() if name.startswith(READ_AT_IMPORT)}
    return {
        **found,
        "python": sys.executable,
        "sources": f"{ROOT} {_newest_source_ns()}",
        "cpus": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
        "nice": str(os.nice(0)),
        "cgroup": Path("/proc/self/cgroup").read_text(),
    }


def _newest_source_ns() -> int:
    """Return the newest modification time of a source file: a server has imported what was there before."""
    sources = (path for package in SOURCE_PACKAGES for path in (ROOT / package).rglob("*.py"))
    return max(path.stat().st_mtime_ns for path in sources)


def misfit(server: Mapping[str, str], client: Mapping[str, str]) -> str | None:
    """Name a trait that keeps a client from using a server; None when they fit.

    A number of threads can be changed after the fork, but no fork can go back to the libraries' default.
    """
    names = {name for name in {*server, *client} if server.get(name) != client.get(name)}
    return min(names - {THREADS if client.get(THREADS, "").isdigit() else ""}, default=None)


def peer_uid(connection: socket.socket) -> int:
    """Return the user at the other end."""
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


def signal_all(pids: Iterable[int], number: int) -> None:
    """Send a signal to these processes and to what they have started."""
    for pid in pids:
        with suppress(ProcessLookupError):
            try:
                os.killpg(pid, number)
            except ProcessLookupError:  # it has ended, or has not made its session yet
                os.kill(pid, number)


def ignored_signals() -> list[int]:
    """Signals that this process ignores and so would a process that it starts, such as SIGHUP under nohup."""
    numbers = signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}  # which Python itself ignores
    return sorted(int(number) for number in numbers if signal.getsignal(number) is signal.SIG_IGN)
