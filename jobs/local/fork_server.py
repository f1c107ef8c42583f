"""The fork server: imports torch and the suite once, and forks a process for each request.

`python -m jobs.local.fork_server LISTENER_FD PARENT_PID`, which `fork_client` starts. It has one thread, no
CUDA and no DALI pipeline: a fork has none of its parent's other threads, and CUDA does not survive a fork.
The environment variable SHIFTBENCH_FORK_SERVER names the socket of a running server, for any command of
the user.
"""

import fcntl
import gc
import importlib
import json
import logging
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from jobs import exit_codes
from jobs.local.fork_client import peer_uid, send_message, signal_all, traits
from jobs.local.process import THREADS
from jobs.local.process_end import exit_with
from suite.large_imports import collecting_no_garbage
from suite.signals import STOP_SIGNALS, signal_when_parent_ends

PRELOADED = ("jobs.local.worker", "suite.train")
# What runs import by name. Detection's evaluation is left out, since OpenCV starts threads.
BY_NAME = (
    *("suite.train.classification", "suite.detection.network"),
    *("suite.data.vision", "suite.data.memory", "suite.data.synthetic", "suite.data.dali"),
)
GRACE_S = 30  # torchrun's, between SIGTERM and SIGKILL


def serve(listener: socket.socket, own_traits: Mapping[str, str]) -> None:
    """Fork a supervisor for each connection until SIGTERM; ask these to end, and wait for them.

    A supervisor forks and follows the processes of one client; the server keeps no record of runs.
    """
    server, supervisors, is_closing = os.getpid(), set(), False

    def close(*_: object) -> None:
        nonlocal is_closing
        is_closing = True
        listener.shutdown(socket.SHUT_RDWR)  # ends `accept`

    for number in STOP_SIGNALS:  # a terminal's signals reach the launcher, which passes them on to its runs
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, close)
    while not is_closing:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            if not is_closing:  # such as too many open files: the client starts a fresh process
                print(f"a connection was not accepted: {error}", file=sys.stderr, flush=True)
                time.sleep(0.1)
            continue
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
                try:
                    supervise(connection, server, own_traits, reason)
                except BaseException as error:
                    sys.excepthook(*sys.exc_info())
                    send_message(connection, {"refused": f"{type(error).__name__}: {error}"})
                finally:
                    os._exit(exit_codes.FAILURE)
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
    """Import everything that training needs; no loader for a trainer without torch, as tests have it."""
    # numpy's library would start its threads on import. If the user wants several, no process is forked.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with collecting_no_garbage():
        for name in PRELOADED:
            importlib.import_module(name)
        for name in BY_NAME if "torch" in sys.modules else ():
            with suppress(ImportError):  # the run that needs it reports it
                importlib.import_module(name)
    from suite.provenance import code_state

    code_state()
    gc.collect()
    gc.freeze()


def supervise(
    connection: socket.socket, server: int, server_traits: Mapping[str, str], reason: str | None
) -> NoReturn:
    """Serve one client in a fork of the process `server`, which has blocked SIGTERM.

    `reason`: why no process can be forked for the client.
    """
    signal_when_parent_ends(signal.SIGTERM, server)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    send_message(connection, {"refused": reason} if reason else {"traits": server_traits})
    try:
        request = json.loads(connection.makefile().readline() or "{}")
    except OSError:
        request = {}
    if "end" in request:
        os.kill(server, signal.SIGTERM)
    elif request and not reason:
        _fork_and_follow(connection, request, server_traits)
    os._exit(0)


def _fork_and_follow(
    connection: socket.socket, request: dict[str, Any], server_traits: Mapping[str, str]
) -> None:
    """Fork a process for each rank; send their ids, and how they have ended."""
    num_ranks, supervisor, pids = request["ranks"], os.getpid(), []
    listener = socket.create_server(("127.0.0.1", 0))  # no other process can take the ranks' port
    port = listener.getsockname()[1]
    has_torch = "torch.distributed" in sys.modules
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    for rank in range(num_ranks):
        if (pid := os.fork()) == 0:
            variables = _rank_variables(rank, num_ranks, port, has_torch)
            connection.close()
            listener.close()
            exit_with(lambda: _become(request, server_traits, supervisor, variables))  # noqa: B023
        pids.append(pid)
    running = set(pids)

    def end_all(*_: object) -> None:
        signal_all(running, signal.SIGTERM)
        signal.alarm(GRACE_S if num_ranks > 1 else 0)

    signal.signal(signal.SIGALRM, lambda *_: signal_all(running, signal.SIGKILL))
    signal.signal(signal.SIGTERM, end_all)
    signal.signal(signal.SIGIO, end_all)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    send_message(connection, {"pids": pids})
    # The client says nothing more: SIGIO means that it has closed its connection or was killed.
    fcntl.fcntl(connection, fcntl.F_SETOWN, supervisor)
    fcntl.fcntl(connection, fcntl.F_SETFL, fcntl.fcntl(connection, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([connection], [], [], 0)[0]:
        end_all()
    # The ranks meet at a store. It has threads, and so begins when all ranks are forked.
    store = None
    if has_torch and num_ranks > 1:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        fd = listener.detach()
        store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=fd)
    first = 0
    while running:
        pid, status = os.wait()
        running.discard(pid)
        send_message(connection, {"ended": pid})  # its process id may be reused from now on
        code = os.waitstatus_to_exitcode(status)
        if code and not first:
            first = code if num_ranks == 1 else min(code, exit_codes.FAILURE)  # a rank's own code says little
            end_all()
    del store
    send_message(connection, {"code": first})


def _rank_variables(rank: int, num_ranks: int, port: int, has_torch: bool) -> dict[str, str]:
    """Return what torchrun sets; nothing for a process that is no rank."""
    if num_ranks == 1:
        return {}
    own = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0}
    common = {"WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks, "GROUP_WORLD_SIZE": 1}
    store = {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0} if has_torch else {}
    variables = {**own, **common, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **store}
    return {name: str(value) for name, value in variables.items()}


def _become(
    request: dict[str, Any], server_traits: Mapping[str, str], supervisor: int, variables: dict[str, str]
) -> int:
    """Turn this fork into what was requested, and run it. Returns the exit code."""
    os.setsid()
    os.umask(request["umask"])
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for number in (1, 2):
        os.dup2(log, number)
    os.close(log)
    os.chdir(request["cwd"])
    signal_when_parent_ends(signal.SIGKILL if variables else signal.SIGTERM, supervisor)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.environ.update(variables)
    time.tzset()
    tempfile.tempdir = None
    for number in {*STOP_SIGNALS, *request["ignored"]}:
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in request["ignored"] else default)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    logging.getLogger().handlers.clear()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # Python's own generator does so by itself
    if "torch" in sys.modules:
        torch, threads = sys.modules["torch"], os.environ.get(THREADS)
        torch.default_generator.seed()
        if threads is not None and threads != server_traits.get(THREADS):
            torch.set_num_threads(int(threads))  # OpenMP has read its variable in the server
    sys.argv = [request["module"], *request["arguments"]]
    code: int = importlib.import_module(request["module"]).main()
    return code


def main() -> NoReturn:
    """Serve until SIGTERM, or until the process that started this one has ended."""
    signal_when_parent_ends(signal.SIGTERM, int(sys.argv[2]))
    listener = socket.socket(fileno=int(sys.argv[1]))
    folder = Path(listener.getsockname()).parent
    own_traits = traits(os.environ)
    preload()
    serve(listener, own_traits)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main()
