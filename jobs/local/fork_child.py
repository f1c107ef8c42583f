"""What a fork does to be like a fresh process: environment, signals, files, threads, and torchrun's ranks."""

import atexit
import gc
import importlib
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

from jobs import exit_codes
from jobs.local.fork_protocol import THREADS, ForkRequest
from jobs.local.parent_death import signal_when_parent_ends
from suite.signals import STOP_SIGNALS

Task = Callable[[], int]
"""What a process does once it has left the server's code. Returns the exit code."""
GRACE_S = 30  # torchrun's, between SIGTERM and SIGKILL


def become(request: ForkRequest, log: int, cwd: int, server: int, server_traits: Mapping[str, str]) -> Task:
    """Turn this fork of the process `server` into what was requested; return what it has to do.

    `log` and `cwd` are file descriptors, which are closed.
    """
    for number in (1, 2):
        os.dup2(log, number)
    os.fchdir(cwd)
    for fd in (log, cwd):
        os.close(fd)
    _end_with(server, signal.SIGTERM)
    os.umask(request.umask)
    os.environ.clear()
    os.environ.update(request.environment)
    time.tzset()
    tempfile.tempdir = None
    for number in (*STOP_SIGNALS, signal.SIGCHLD, *request.ignored):
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in request.ignored else default)
    logging.getLogger().handlers.clear()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # Python's own generator does so by itself
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.seed()
    _take_threads(request.environment.get(THREADS), server_traits.get(THREADS))
    gc.enable()

    def run() -> int:
        sys.argv = [request.module, *request.arguments]
        code: int = importlib.import_module(request.module).main()
        return code

    return run if request.ranks == 1 else _fork_ranks(request.ranks, run)


def finish(task: Task) -> NoReturn:
    """Run a task and end this process as Python would, but for the teardown of its modules."""
    code: object = exit_codes.FAILURE
    try:
        code = task()
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = exit_codes.FAILURE
    # What multiprocessing does in its forks, too.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or exit_codes.DONE)


def _end_with(parent: int, number: signal.Signals) -> None:
    """Have this process signalled when its parent ends, also if that happened just before."""
    signal_when_parent_ends(number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def _take_threads(wanted: str | None, servers: str | None) -> None:
    """OpenMP has read its variable in the server."""
    if wanted is not None and wanted != servers and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(wanted))


def _fork_ranks(num_ranks: int, run: Task) -> Task:
    """Fork a process for each rank. Return `run` in these, and what their leader has to do in this one."""
    listener = socket.create_server(("127.0.0.1", 0))
    port, leader, pids = listener.getsockname()[1], os.getpid(), []
    has_torch = "torch.distributed" in sys.modules
    for rank in range(num_ranks):
        pid = os.fork()
        if pid == 0:
            listener.close()
            _end_with(leader, signal.SIGKILL)
            os.environ.update(_rank_variables(rank, num_ranks, port))
            if has_torch:
                os.environ.update(TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT="0")
            return run
        pids.append(pid)

    def lead() -> int:
        # The ranks meet at a store that listens on the leader's socket, so that no other process can take the
        # port. The store has threads, and begins when all ranks are forked.
        store = _store(listener, port) if has_torch else listener
        code = _follow(set(pids))
        del store
        if code < 0:  # end by the signal that the rank has ended by
            with suppress(OSError):
                signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        return code

    return lead


def _rank_variables(rank: int, num_ranks: int, port: int) -> dict[str, str]:
    variables = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "GROUP_RANK": 0,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    variables |= {"WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks, "GROUP_WORLD_SIZE": 1}
    return {name: str(value) for name, value in variables.items()}


def _store(listener: socket.socket, port: int) -> Any:
    from torch import distributed

    return distributed.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
    )


def _follow(ranks: set[int]) -> int:
    """Wait for all ranks; end the others once one fails, all at SIGTERM. Returns the first failing code."""

    def end_all(*_: object) -> None:
        for pid in ranks:
            os.kill(pid, signal.SIGTERM)
        signal.alarm(GRACE_S)

    def kill_all(*_: object) -> None:
        for pid in ranks:
            os.kill(pid, signal.SIGKILL)

    for number in STOP_SIGNALS:  # the ranks are in this process's group and receive them too
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGTERM, end_all)
    signal.signal(signal.SIGALRM, kill_all)
    first = 0
    while ranks:
        pid, status = os.wait()
        ranks.discard(pid)
        code = os.waitstatus_to_exitcode(status)
        if code and not first:
            first = code
            end_all()
    return first
