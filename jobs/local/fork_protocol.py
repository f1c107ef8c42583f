"""The protocol between a fork server and its clients: lines of JSON, a connection for each process.

The server greets with its traits. The client sends its request, and the server answers `{"pids": [N, …]}`,
one for each rank, or `{"refused": WHY}`; at the end `{"code": N}`. When a client closes its connection, its
processes receive SIGTERM.
"""

import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from jobs.local.process import THREADS
from suite.provenance import ROOT

# What libraries and Python itself read when they are loaded; a fork cannot change it any more.
_READ_AT_IMPORT = (
    *("LD_", "LC_", "LANG", "GLIBC_TUNABLES", "MALLOC_"),
    *("GOMP_", "KMP_", "MKL_", "OMP_", "OPENBLAS_"),
    *("ATEN_", "DNNL_", "ONEDNN_", "PYTORCH_", "TORCH_"),
    *("PYTHONHASHSEED", "PYTHONHOME", "PYTHONOPTIMIZE", "PYTHONPATH", "PYTHONSAFEPATH", "PYTHONUTF8"),
)


def send_message(connection: socket.socket, message: Mapping[str, Any]) -> None:
    """Send one line, unless the other end is gone. Names that are no UTF-8 survive, as lone surrogates."""
    with suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")


def traits(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what a process with this environment takes from its parent for good: a fork has its server's."""
    found = {name: value for name, value in environment.items() if name.startswith(_READ_AT_IMPORT)}
    return {
        **found,
        "python": sys.executable,
        "sources": str(ROOT),
        "cpus": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
        "nice": str(os.nice(0)),
        "cgroup": Path("/proc/self/cgroup").read_text(),
    }


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
