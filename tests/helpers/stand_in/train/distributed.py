"""The ranks of a stand-in run: processes of one machine that agree over a socket, without torch."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

from suite.experiment import SystemSpec
from suite.launch import launch_variables


@dataclass(frozen=True)
class Ranks:
    """This process among the ranks of its run."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    peers: "list[IO[str]]" = field(default_factory=list)
    """Connections: of the first rank to every other, of the others to the first."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def agree(self, code: int) -> int:
        """Returns the largest code that any rank gives. Every rank calls it at the same point."""
        return int(max(self.gather(code)))

    def hosts(self) -> list[str]:
        """Returns the host name of every rank."""
        return self.gather(socket.gethostname())

    def gather(self, value: Any) -> list[Any]:
        """Returns every rank's value in rank order. Raises ConnectionResetError where a rank is gone."""
        if not self.is_first:
            _send(self.peers[0], value)
            return list(_receive(self.peers[0]))
        values = [value, *map(_receive, self.peers)]
        for peer in self.peers:
            _send(peer, values)
        return values


def _send(peer: "IO[str]", value: Any) -> None:
    peer.write(json.dumps(value) + "\n")
    peer.flush()


def _receive(peer: "IO[str]") -> Any:
    line = peer.readline()
    if not line:
        raise ConnectionResetError("Connection closed by peer")  # as gloo says it
    return json.loads(line)


@contextmanager
def joined(system: SystemSpec) -> Iterator[Ranks]:
    """Joins the other ranks, if the environment names any, and leaves them at the end."""
    variables = launch_variables(os.environ)
    if not variables:
        yield Ranks()
        return
    rank, world_size = int(variables["RANK"]), int(variables["WORLD_SIZE"])
    # A name in Linux's abstract space: no port is taken, and none is left behind.
    address = f"\0shiftbench-stand-in:{variables['MASTER_ADDR']}:{variables['MASTER_PORT']}"
    connect = _connect_to_others if rank == 0 else _connect_to_first
    sockets = connect(address, rank, world_size, system.collective_timeout_s)
    try:
        yield Ranks(rank, int(variables["LOCAL_RANK"]), world_size, [s.makefile("rw") for s in sockets])
    finally:
        for connection in sockets:
            connection.close()


def _connect_to_others(address: str, rank: int, world_size: int, timeout_s: float) -> list[socket.socket]:
    by_rank: dict[int, socket.socket] = {}
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen(world_size)
        server.settimeout(timeout_s)
        while len(by_rank) < world_size - 1:
            connection, _ = server.accept()
            connection.settimeout(timeout_s)
            by_rank[connection.recv(1)[0]] = connection
    return [by_rank[other] for other in range(1, world_size)]


def _connect_to_first(address: str, rank: int, world_size: int, timeout_s: float) -> list[socket.socket]:
    deadline = time.monotonic() + timeout_s
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(address)
        except ConnectionRefusedError:
            connection.close()
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"rank {rank}: the first rank did not appear in {timeout_s:.0f} s"
                ) from None
            time.sleep(0.02)
        else:
            connection.settimeout(timeout_s)
            connection.sendall(bytes([rank]))
            return [connection]
