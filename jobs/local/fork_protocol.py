"""The protocol between a fork server and its clients: lines of JSON, a connection for each process.

The server greets with its traits. The client sends a ForkRequest, with the file descriptors of the log and
of the working folder, and later `{"signal": N}`. The server answers `{"pid": N}` or `{"refused": WHY}`, and
at the end `{"code": N}`. When a client closes its connection, the server sends SIGTERM to the process.
"""

import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from suite.provenance import ROOT

# What libraries and Python itself read when they are loaded; a fork cannot change it any more.
_READ_AT_IMPORT = (
    *("LD_", "LC_", "LANG", "GLIBC_TUNABLES", "MALLOC_"),
    *("GOMP_", "KMP_", "MKL_", "OMP_", "OPENBLAS_"),
    *("ATEN_", "DNNL_", "ONEDNN_", "PYTORCH_", "TORCH_"),
    *("PYTHONHASHSEED", "PYTHONHOME", "PYTHONOPTIMIZE", "PYTHONPATH", "PYTHONSAFEPATH", "PYTHONUTF8"),
)
THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class ForkRequest:
    """What a forked process takes from its client and not from the server. `ignored`: signals, by number."""

    module: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    umask: int
    ignored: tuple[int, ...]
    ranks: int

    def encode(self) -> bytes:
        return encode(asdict(self))

    @classmethod
    def decode(cls, message: dict[str, Any]) -> "ForkRequest":
        return cls(
            **{
                **message,
                "arguments": tuple(message["arguments"]),
                "ignored": tuple(message["ignored"]),
            }
        )


def encode(message: Mapping[str, Any]) -> bytes:
    """Return one line. Names that are no UTF-8 survive, as lone surrogates."""
    return json.dumps(message).encode() + b"\n"


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
    if client.get(THREADS, "").isdigit():
        names.discard(THREADS)
    return min(names, default=None)


def own_umask() -> int:
    """Return the file mode mask. os.umask would have to change it for a moment, also for other threads."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = (line for line in lines if line.startswith("Umask:"))
    return int(found.split()[1], 8)


def ignored_signals() -> tuple[int, ...]:
    """Signals that this process ignores and so would a process that it starts, such as SIGHUP under nohup."""
    by_python = (signal.SIGPIPE, signal.SIGXFSZ)
    numbers = signal.valid_signals() - set(by_python)
    return tuple(sorted(int(n) for n in numbers if signal.getsignal(n) is signal.SIG_IGN))


def peer_uid(connection: socket.socket) -> int:
    """Return the user at the other end."""
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)
