"""What is looked at on a node about the others: their names, the first one's port, free ports.

Standard library alone. Each probe gives a plain dict for JSON, as those of `probes` do.
"""

import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from suite.launch import FIRST_PORT, NUM_PORTS, launch_variables

PATIENCE_S = 30.0  # for the first node to listen, and for the others to call
PORTS_TRIED = 100
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")

Answer = dict[str, Any]


def names(env: Mapping[str, str]) -> Answer:
    """What each node's name means here, and this host's own."""
    variables = launch_variables(env)
    if not variables:
        return {}
    listed = ["scontrol", "show", "hostnames", env["SLURM_STEP_NODELIST"]]
    others = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    return {
        "first": variables["MASTER_ADDR"],
        "resolved": {name: _addresses(name) for name in others},
        "own": _addresses(socket.gethostname()),
        "interface": env.get("GLOO_SOCKET_IFNAME", ""),
    }


def _addresses(name: str) -> list[str] | str:
    """Its addresses, or why there are none."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return error.strerror or str(error)
    return sorted({str(entry[4][0]) for entry in found})


def connection(env: Mapping[str, str], token: str) -> Answer:
    """From every other node to the first one, at the port that training would take for this job.

    `complete`: all of them came, as the first node tells each.
    """
    variables = launch_variables(env)
    if not variables:
        return {}
    host, port = variables["MASTER_ADDR"], int(variables["MASTER_PORT"])
    try:
        if variables["RANK"] == "0":
            complete = _listen(port, int(variables["WORLD_SIZE"]) - 1, token)
        else:
            complete = _call(host, port, token)
    except OSError as error:
        return {"to": host, "port": port, "error": error.strerror or str(error)}
    return {"to": host, "port": port, "complete": complete}


def _listen(port: int, num_callers: int, token: str) -> bool:
    """Answer the callers, once they are all there or the time is up."""
    deadline = time.monotonic() + PATIENCE_S
    with socket.create_server(("", port), backlog=num_callers) as server, ExitStack() as lines:
        callers: list[socket.socket] = []
        while len(callers) < num_callers and time.monotonic() < deadline:
            server.settimeout(max(0.1, deadline - time.monotonic()))
            with suppress(TimeoutError):
                callers.append(lines.enter_context(server.accept()[0]))
        complete = len(callers) == num_callers
        for caller in callers:
            with suppress(OSError):  # who has hung up says so itself
                caller.sendall(token.encode() + (b"1" if complete else b"0"))
    return complete


def _call(host: str, port: int, token: str) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with socket.create_connection((host, port), timeout=5) as line:
                line.settimeout(PATIENCE_S + 5)
                said = line.makefile("rb").read(len(token) + 1)
            if said.startswith(token.encode()):
                return said.endswith(b"1")
            error = OSError(0, "somebody else answers there")
        except OSError as refusal:
            error = refusal
        if time.monotonic() > deadline:
            raise error
        time.sleep(0.2)


def ports() -> Answer:
    """Which of some of the ports that training takes are taken, and which the kernel hands out itself."""
    step = NUM_PORTS // PORTS_TRIED
    busy = [port for port in range(FIRST_PORT, FIRST_PORT + NUM_PORTS, step) if not _is_free(port)]
    try:
        ephemeral = [int(word) for word in EPHEMERAL.read_text().split()]
    except (OSError, ValueError):
        ephemeral = []
    return {"tried": NUM_PORTS // step, "busy": len(busy), "ephemeral": ephemeral}


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        # Else nodes that share a host, and look at the same time, would see one another.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("", port))
        except OSError:
            return False
    return True
