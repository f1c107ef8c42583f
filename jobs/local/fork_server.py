"""The fork server: imports torch and the suite once, and forks a process for each request.

`python -m jobs.local.fork_server LISTENER_FD`, which `fork_client` starts. It has one thread, no CUDA and no
DALI pipeline: a fork has none of its parent's other threads, and CUDA does not survive a fork. The
environment variable SHIFTBENCH_FORK_SERVER names the socket of a running server, for any command of the user.
"""

import gc
import importlib
import os
import shutil
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from jobs.local.fork_child import supervise
from jobs.local.fork_protocol import peer_uid, send_message, traits
from jobs.local.worker import signal_when_parent_ends
from suite.signals import STOP_SIGNALS

PRELOADED = ("jobs.local.worker", "suite.train")
LOADERS = ("suite.data.vision", "suite.data.memory", "suite.data.synthetic", "suite.data.dali")


def serve(listener: socket.socket, own_traits: Mapping[str, str]) -> None:
    """Fork a supervisor for each connection until SIGTERM; ask these to end, and wait for them.

    A supervisor forks and follows the processes of one client, so that the server has no state to lose.
    """
    server, supervisors = os.getpid(), set()
    for number in STOP_SIGNALS:  # the others are for the runs alone
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: listener.shutdown(socket.SHUT_RDWR))
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # it has been shut down
            break
        reason = reason_not_to_fork()
        if (uid := peer_uid(connection)) != os.getuid():
            reason = f"refused: a connection of user {uid}"
        # A supervisor must not run the server's handler; `supervise` lifts this.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            pid = os.fork()
        except OSError as error:
            send_message(connection, {"refused": f"it cannot fork: {error.strerror}"})
        else:
            if pid == 0:
                listener.close()
                supervise(connection, server, own_traits, reason)
            supervisors.add(pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        connection.close()
        _reap(supervisors, os.WNOHANG)
    for pid in supervisors:
        os.kill(pid, signal.SIGTERM)
    _reap(supervisors, 0)


def _reap(supervisors: set[int], options: int) -> None:
    with suppress(ChildProcessError):
        while pid := os.waitpid(-1, options)[0]:
            supervisors.discard(pid)


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
    """Import everything that training needs. The loaders need torch, which a test's trainer does without."""
    before = os.environ.get("OPENBLAS_NUM_THREADS")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy's library would start its threads on import
    for name in PRELOADED:
        importlib.import_module(name)
    for name in LOADERS if "torch" in sys.modules else ():
        with suppress(ImportError):  # the run that needs it reports it
            importlib.import_module(name)
    del os.environ["OPENBLAS_NUM_THREADS"]
    if before is not None:
        os.environ["OPENBLAS_NUM_THREADS"] = before
    from suite.provenance import code_state

    code_state()
    gc.collect()
    gc.freeze()


def main() -> NoReturn:
    """Serve until SIGTERM."""
    signal_when_parent_ends(signal.SIGTERM)
    listener = socket.socket(fileno=int(sys.argv[1]))
    folder = Path(listener.getsockname()).parent
    own_traits = traits(os.environ)
    preload()
    serve(listener, own_traits)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main()
