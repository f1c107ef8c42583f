"""Clocks, names of nodes, the port of the first node, and free ports: what ranks on several nodes rely on."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from jobs.doctor.finding import Answer, Case, Request, Topic, Verdict, by_text
from suite.launch import FIRST_PORT, NUM_PORTS, launch_variables

PATIENCE_S = 30.0  # for the first node to listen, and for the others to connect
PORTS_TRIED = 100
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
MAX_SKEW_S = 5.0
MANY_BUSY = 0.1
LAST_PORT = FIRST_PORT + NUM_PORTS - 1
ONE_NODE = "only one node"


def probe_clock(request: Request, earlier: Mapping[str, Answer]) -> Answer:
    """The time on this node; the reader compares it with its own at once."""
    return {"time": time.time()}


def probe_names(request: Request, earlier: Mapping[str, Answer]) -> Answer:
    """The addresses that this node finds for each node's name and for its own host name."""
    variables = launch_variables(os.environ)
    if not variables:
        return {}
    listed = ["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]]
    others = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    return {
        "first": variables["MASTER_ADDR"],
        "resolved": {name: _addresses(name) for name in others},
        "own": _addresses(socket.gethostname()),
        "interface": os.environ.get("GLOO_SOCKET_IFNAME", ""),
    }


def _addresses(name: str) -> list[str] | str:
    """The addresses of a host, or why there are none."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return error.strerror or str(error)
    return sorted({str(entry[4][0]) for entry in found})


def probe_connection(request: Request, earlier: Mapping[str, Answer]) -> Answer:
    """Connects every other node to the first one, at the port that training would use in this job.

    `complete`: all of them connected; the first node tells the others.
    """
    variables = launch_variables(os.environ)
    if not variables:
        return {}
    host, port = variables["MASTER_ADDR"], int(variables["MASTER_PORT"])
    try:
        if variables["RANK"] == "0":
            complete = _listen(port, int(variables["WORLD_SIZE"]) - 1, request.token)
        else:
            complete = _connect(host, port, request.token)
    except OSError as error:
        return {"error": f"{host}:{port}: {error.strerror or error}"}
    return {"complete": complete}


def _listen(port: int, num_clients: int, token: str) -> bool:
    """Replies to the clients once all of them have connected, or the time is up."""
    deadline = time.monotonic() + PATIENCE_S
    with socket.create_server(("", port), backlog=num_clients) as server, ExitStack() as open_sockets:
        clients: list[socket.socket] = []
        while len(clients) < num_clients and time.monotonic() < deadline:
            server.settimeout(max(0.1, deadline - time.monotonic()))
            with suppress(TimeoutError):
                clients.append(open_sockets.enter_context(server.accept()[0]))
        complete = len(clients) == num_clients
        for client in clients:
            with suppress(OSError):  # a client that has closed its end reports that itself
                client.sendall(token.encode() + (b"1" if complete else b"0"))
    return complete


def _connect(host: str, port: int, token: str) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with socket.create_connection((host, port), timeout=5) as connected:
                connected.settimeout(PATIENCE_S + 5)
                reply = connected.makefile("rb").read(len(token) + 1)
            if reply.startswith(token.encode()):
                return reply.endswith(b"1")
            error = OSError(0, "another program answers there")
        except OSError as refusal:
            error = refusal
        if time.monotonic() > deadline:
            raise error
        time.sleep(0.2)


def probe_ports(request: Request, earlier: Mapping[str, Answer]) -> Answer:
    """How many of a sample of training's ports are in use, and the range that the kernel assigns itself."""
    step = NUM_PORTS // PORTS_TRIED
    busy = [port for port in range(FIRST_PORT, FIRST_PORT + NUM_PORTS, step) if not _is_free(port)]
    try:
        ephemeral = [int(word) for word in EPHEMERAL.read_text().split()]
    except (OSError, ValueError):
        ephemeral = []
    return {"tried": NUM_PORTS // step, "busy": len(busy), "ephemeral": ephemeral}


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        # Nodes that share a host may test the same port at the same time.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("", port))
        except OSError:
            return False
    return True


def _clocks(case: Case) -> Iterator[Verdict]:
    skews = [(node.name, node.clock_ahead_s) for node in case.nodes if node.clock_ahead_s is not None]
    servers = [(name, answer.get("mtime", 0.0)) for name, answer in case.answers("shared").items()]
    off = [
        (name, f"{abs(s):.0f} s {'ahead of' if s > 0 else 'behind'} this machine")
        for name, s in skews
        if abs(s) > MAX_SKEW_S
    ]
    off += [
        (name, f"{abs(s):.0f} s off the file server's clock") for name, s in servers if abs(s) > MAX_SKEW_S
    ]
    if not skews:
        yield "unknown", "no node reported its time", "see `python` and `jobs folder`"
    elif off:
        fix = "synchronise their time, for example by `systemctl restart chronyd` (administrator)"
        yield "warning", f"{by_text(off)}; durations and remaining times will be wrong", fix
    else:
        yield "ok", f"within {max(1.0, *(abs(skew_s) for _, skew_s in skews)):.0f} s of this machine's"


def _names(case: Case) -> Iterator[Verdict]:
    if case.cluster.scheduler != "slurm":
        return
    hosts = {node.name: node.answers.get("start", {}).get("host") for node in case.nodes}
    faults = by_text(
        (node, fault)
        for node, answer in case.answers("names").items()
        for name, addresses in answer.get("resolved", {}).items()
        if (fault := _misled(name, addresses, hosts.get(name) not in (None, hosts[node])))
    )
    if errors := case.faults("names"):
        yield "problem", errors, "put scontrol on the nodes' PATH, by setup: in the cluster's file"
    elif len(case.nodes) < 2:
        yield "ok", ONE_NODE
    elif faults:
        fix = "correct DNS, or name every node in every node's /etc/hosts, with its address (administrator)"
        yield "problem", faults, fix
    elif len(set(hosts.values())) > 1 and (hidden := case.faults("names", _hides)):
        fix = "set environment: {GLOO_SOCKET_IFNAME: eth0} in the cluster's file, or the node's interface by "
        fix += "`ip route`; or remove the name from 127.0.1.1 in its /etc/hosts (administrator)"
        yield "problem", hidden, fix
    else:
        yield "ok", f"each of {len(case.nodes)} nodes resolves all of them"


def _misled(name: str, addresses: list[str] | str, is_elsewhere: bool) -> str:
    if isinstance(addresses, str):
        return f"{name} is not resolved ({addresses})"
    if is_elsewhere and _only_loopback(addresses):
        return f"{name} resolves to {addresses[0]}, which is the node itself"
    return ""


def _hides(answer: Answer) -> str:
    if answer.get("interface") or not _only_loopback(answer.get("own")):
        return ""
    return f"its own host name resolves to {answer['own'][0]}, so gloo would reach no other node"


def _only_loopback(addresses: object) -> bool:
    if not isinstance(addresses, list) or not addresses:
        return False
    return all(str(address).startswith("127.") or address == "::1" for address in addresses)


def _connection(case: Case) -> Iterator[Verdict]:
    if case.cluster.scheduler != "slurm":
        return
    if len(case.nodes) < 2:
        yield "ok", ONE_NODE
    elif faults := case.faults("connection"):
        fix = f"the nodes' firewall must let TCP ports {FIRST_PORT} to {LAST_PORT} pass (administrator), and "
        yield "problem", faults, f"see `names of nodes`; {fix}no other program may listen there"
    else:
        yield "ok", f"every other node reaches it, on a port of training's ({FIRST_PORT} to {LAST_PORT})"


def _ports(case: Case) -> Iterator[Verdict]:
    if crowded := case.faults("ports", _crowded):
        fix = f"see which programs listen on {FIRST_PORT} to {LAST_PORT} (`ss -ltnp`), and move or stop them"
        yield "warning", crowded, fix
    elif shared := case.faults("ports", _ephemeral):
        fix = (
            f"`sysctl net.ipv4.ip_local_reserved_ports={FIRST_PORT}-{LAST_PORT}` on the nodes (administrator)"
        )
        yield "warning", f"{shared}; a run that finds its port in use fails", f"{fix}, or `shiftbench retry`"
    else:
        yield "ok", f"{FIRST_PORT} to {LAST_PORT}"


def _crowded(answer: Answer) -> str:
    busy, tried = answer.get("busy", 0), answer.get("tried", 1)
    return f"{busy} of {tried} tested ports are in use" if busy > MANY_BUSY * tried else ""


def _ephemeral(answer: Answer) -> str:
    low, high = answer.get("ephemeral") or (0, 0)
    overlaps = low <= LAST_PORT and high >= FIRST_PORT
    return f"the kernel assigns ports {low} to {high} to outgoing connections" if overlaps else ""


TOPIC = Topic(
    {"clocks": _clocks, "names of nodes": _names, "first node's port": _connection, "free ports": _ports},
    on_nodes={
        "clock": probe_clock,
        "names": probe_names,
        "connection": probe_connection,
        "ports": probe_ports,
    },
)
