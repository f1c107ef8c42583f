"""Clocks, names of nodes, the port of the first node, and free ports: what ranks on several nodes rely on."""

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from jobs.doctor.finding import Answer, Case, Request, Topic, Verdict, by_text
from suite.launch import FIRST_PORT, NUM_PORTS, launch_variables
from suite.node_list import node_names

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
    if not launch_variables(os.environ):
        return {}
    return {
        "resolved": {name: _addresses(name) for name in node_names(os.environ["SLURM_STEP_NODELIST"])},
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
    """Connect every other node to the first one, at the port that training would use in this job.

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
    """Reply to the clients once all of them have connected, or the time is up."""
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
    sample = range(FIRST_PORT, FIRST_PORT + NUM_PORTS, NUM_PORTS // PORTS_TRIED)
    num_free = 0
    for port in sample:
        with suppress(OSError), socket.socket() as one:
            # Nodes that share a host may test the same port at the same time.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("", port))
            num_free += 1
    ephemeral = [int(word) for word in EPHEMERAL.read_text().split()]
    return {"tried": len(sample), "busy": len(sample) - num_free, "ephemeral": ephemeral}


def _clocks(case: Case) -> Iterator[Verdict]:
    skews = {node.name: node.clock_ahead_s for node in case.nodes if node.clock_ahead_s is not None}
    servers = {name: answer.get("mtime", 0.0) for name, answer in case.answers("shared").items()}
    off = [(name, f"{s:+.0f} s from this machine's") for name, s in skews.items() if abs(s) > MAX_SKEW_S]
    off += [(name, f"{s:+.0f} s off the file server's") for name, s in servers.items() if abs(s) > MAX_SKEW_S]
    if not skews:
        yield "unknown", "no node reported its time", "see `python` and `jobs folder`"
    elif off:
        fix = "synchronise their time, for example by `systemctl restart chronyd` (administrator)"
        yield "warning", f"{by_text(off)}; durations and remaining times will be wrong", fix
    else:
        yield "ok", f"within {max(1.0, *map(abs, skews.values())):.0f} s of this machine's"


def _names(case: Case) -> Iterator[Verdict]:
    if case.cluster.scheduler != "slurm":
        return
    hosts = {node.name: node.answers.get("start", {}).get("host") for node in case.nodes}

    def hides(answer: Answer) -> str:
        found = _only_loopback(answer.get("own")) and not answer.get("interface")
        return f"its own host name resolves to {answer['own'][0]}, gloo reaches no other" if found else ""

    faults = []
    for node, answer in case.answers("names").items():
        for name, addresses in answer.get("resolved", {}).items():
            if isinstance(addresses, str):
                faults.append((node, f"{name} is not resolved ({addresses})"))
            elif hosts.get(name) not in (None, hosts[node]) and _only_loopback(addresses):
                faults.append((node, f"{name} resolves to {addresses[0]}, which is the node itself"))
    if errors := case.faults("names"):
        yield "problem", errors, "name the first node by environment: {MASTER_ADDR: …} in the cluster's file"
    elif len(case.nodes) < 2:
        yield "ok", ONE_NODE
    elif faults:
        fix = "correct DNS, or name every node in every node's /etc/hosts, with its address (administrator)"
        yield "problem", by_text(faults), fix
    elif len(set(hosts.values())) > 1 and (hidden := case.faults("names", hides)):
        fix = "set environment: {GLOO_SOCKET_IFNAME: eth0} in the cluster's file, or the node's interface by "
        fix += "`ip route`; or remove the name from 127.0.1.1 in its /etc/hosts (administrator)"
        yield "problem", hidden, fix
    else:
        yield "ok", f"each of {len(case.nodes)} nodes resolves all of them"


def _only_loopback(addresses: object) -> bool:
    found = addresses if isinstance(addresses, list) else []
    return bool(found) and all(str(one).startswith("127.") or one == "::1" for one in found)


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
    def crowded(answer: Answer) -> str:
        busy, tried = answer.get("busy", 0), answer.get("tried", 1)
        return f"{busy} of {tried} tested ports are in use" if busy > MANY_BUSY * tried else ""

    def assigned(answer: Answer) -> str:
        low, high = answer.get("ephemeral") or (0, 0)
        overlaps = low <= LAST_PORT and high >= FIRST_PORT
        return f"the kernel assigns ports {low} to {high} to outgoing connections" if overlaps else ""

    if faults := case.faults("ports", crowded):
        fix = f"see which programs listen on {FIRST_PORT} to {LAST_PORT} (`ss -ltnp`), and move or stop them"
        yield "warning", faults, fix
    elif faults := case.faults("ports", assigned):
        fix = f"`sysctl net.ipv4.ip_local_reserved_ports={FIRST_PORT}-{LAST_PORT}` there (administrator)"
        yield "warning", f"{faults}; a run that finds its port in use fails", f"{fix}, or `shiftbench retry`"
    else:
        yield "ok", f"{FIRST_PORT} to {LAST_PORT}"


PROBES = {"clock": probe_clock, "names": probe_names, "connection": probe_connection, "ports": probe_ports}
CHECKS = {"clocks": _clocks, "names of nodes": _names, "first node's port": _connection, "free ports": _ports}
TOPIC = Topic(CHECKS, on_nodes=PROBES)
