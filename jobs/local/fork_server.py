"""The fork server: imports torch and the suite once, and forks a process for each request.

`python -m jobs.local.fork_server LISTENER_FD`, which `fork_client` starts. It has one thread, no CUDA and no
DALI pipeline: a fork has none of its parent's other threads, and CUDA does not survive a fork. The
environment variable SHIFTBENCH_FORK_SERVER names the socket of a running server, for any command of the user.
"""

import gc
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from jobs.local.fork_child import Task, become, finish
from jobs.local.fork_protocol import ForkRequest, encode, peer_uid, traits
from jobs.local.parent_death import signal_when_parent_ends
from suite.signals import STOP_SIGNALS

PRELOADED = (
    "suite.train",
    "suite.data.vision",
    "suite.data.memory",
    "suite.data.synthetic",
    "jobs.local.worker",
)
PRELOADED_IF_INSTALLED = ("suite.data.dali",)
_NUM_FDS = 2


@dataclass(eq=False)
class _Client:
    """A connection, what has been received over it, and the process that was forked for it."""

    connection: socket.socket
    received: bytes = b""
    fds: list[int] = field(default_factory=list)
    pid: int | None = None

    def send(self, message: dict[str, object]) -> None:
        with suppress(OSError):  # a client that is gone; its end is noticed by the loop
            self.connection.sendall(encode(message))

    def close(self) -> None:
        self.connection.close()
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()


class ForkServer:
    """Serves the clients of one listening socket until SIGTERM, and then until its processes have ended."""

    def __init__(self, listener: socket.socket, own_traits: dict[str, str]) -> None:
        self._listener, self._traits = listener, own_traits
        self._clients: set[_Client] = set()
        self._is_closing = False
        self._woken, self._wakes = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        for one in (self._woken, self._wakes):
            one.setblocking(False)

    def serve(self) -> Task | None:
        """Return None at the server's end, and in each forked process what that process has to do."""
        self._listen_for_signals()
        while not self._is_closing or any(client.pid for client in self._clients):
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._woken:
                    self._wake()
                elif (task := self._receive(key.data)) is not None:
                    return task
        return None

    def _listen_for_signals(self) -> None:
        for number in (*STOP_SIGNALS, signal.SIGCHLD):
            signal.signal(number, self._handle)
        signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)

    def _handle(self, number: int, _: object) -> None:
        """Note SIGTERM. The other stop signals are for the runs alone, and SIGCHLD only wakes the loop."""
        self._is_closing |= number == signal.SIGTERM

    def _wake(self) -> None:
        with suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass
        for client in [client for client in self._clients if client.pid]:
            assert client.pid is not None
            pid, status = os.waitpid(client.pid, os.WNOHANG)
            if pid:
                client.send({"code": os.waitstatus_to_exitcode(status)})
                self._drop(client)
        if self._is_closing and self._listener.fileno() != -1:
            self._selector.unregister(self._listener)
            self._listener.close()
            for client in list(self._clients):
                if client.pid is None:
                    self._drop(client)
                else:
                    self._signal(client, signal.SIGTERM)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        if (uid := peer_uid(connection)) != os.getuid():
            print(f"refused: a connection of user {uid}", file=sys.stderr, flush=True)
            connection.close()
            return
        client = _Client(connection)
        client.send({"traits": self._traits})
        self._clients.add(client)
        self._selector.register(connection, selectors.EVENT_READ, client)

    def _drop(self, client: _Client) -> None:
        self._ignore(client)
        self._clients.discard(client)
        client.close()

    def _ignore(self, client: _Client) -> None:
        """Stop reading what a client sends."""
        with suppress(KeyError):
            self._selector.unregister(client.connection)

    def _receive(self, client: _Client) -> Task | None:
        if client not in self._clients:  # dropped in this very round
            return None
        try:
            data, fds, _, _ = socket.recv_fds(client.connection, 1 << 16, _NUM_FDS)
        except OSError:
            data, fds = b"", []
        client.fds += fds
        client.received += data
        if not data:
            self._hang_up(client)
            return None
        *lines, client.received = client.received.split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "end" in message:
                os.kill(os.getpid(), signal.SIGTERM)
            elif "signal" in message:
                self._signal(client, message["signal"])
            elif (task := self._fork(client, ForkRequest.decode(message))) is not None:
                return task
        return None

    def _hang_up(self, client: _Client) -> None:
        """The client has closed its connection or was killed: its process writes a checkpoint and ends."""
        if client.pid is None:
            self._drop(client)
            return
        self._signal(client, signal.SIGTERM)
        self._ignore(client)  # it remains one of the clients until its process has ended

    @staticmethod
    def _signal(client: _Client, number: int) -> None:
        if client.pid is None:
            return
        try:
            os.killpg(client.pid, number)
        except ProcessLookupError:  # it has not made its session yet; it is not reaped, so the id is its own
            os.kill(client.pid, number)

    def _fork(self, client: _Client, request: ForkRequest) -> Task | None:
        if reason := reason_not_to_fork():
            client.send({"refused": reason})
            self._drop(client)
            return None
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            os.setsid()
            log, cwd = map(os.dup, client.fds)
            self._release()
            return become(request, log, cwd, parent, self._traits)
        client.pid = pid
        client.send({"pid": pid})
        for fd in client.fds:
            os.close(fd)
        client.fds.clear()
        return None

    def _release(self) -> None:
        """In a forked process: give up what belongs to the server."""
        signal.set_wakeup_fd(-1)
        self._selector.close()
        for client in self._clients:
            client.close()
        for one in (self._listener, self._woken, self._wakes):
            one.close()
        self._clients.clear()


def reason_not_to_fork() -> str | None:
    """Return why a fork of this process would be unsafe, or None."""
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
    if threads > 1:
        return f"the server has {threads} threads, of which a fork would have one"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "CUDA is initialised in the server, and does not survive a fork"
    return None


def preload() -> None:
    """Import everything that training needs."""
    before = os.environ.get("OPENBLAS_NUM_THREADS")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy's library would start its threads on import
    for name in PRELOADED:
        importlib.import_module(name)
    for name in PRELOADED_IF_INSTALLED:
        with suppress(ImportError):  # the run that needs it says so
            importlib.import_module(name)
    del os.environ["OPENBLAS_NUM_THREADS"]
    if before is not None:
        os.environ["OPENBLAS_NUM_THREADS"] = before
    from suite.provenance import code_state

    code_state()
    gc.collect()
    gc.freeze()


def main() -> NoReturn:
    """Serve, or in a forked process do what was requested."""
    signal_when_parent_ends(signal.SIGTERM)
    listener = socket.socket(fileno=int(sys.argv[1]))
    folder = Path(listener.getsockname()).parent
    own_traits = traits(os.environ)
    preload()
    task = ForkServer(listener, own_traits).serve()
    if task is not None:
        finish(task)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main()
