"""Clocks, names of nodes, the port of the first node, and free ports: what ranks on several nodes rely on."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from jobs.doctor.finding import (
    Answer,
    Case,
    Fault,
    Finding,
    Request,
    Topic,
    by_text,
    error_of,
    ok,
    problem,
    unknown,
    warning,
)
from suite.launch import FIRST_PORT, NUM_PORTS, launch_variables

PATIENCE_S = 30.0  # for the first node to listen, and for the others to connect
PORTS_TRIED = 100
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
MAX_SKEW_S = 5.0
MANY_BUSY = 0.1
LAST_PORT = FIRST_PORT + NUM_PORTS - 1
ONE_NODE = "only one node"


# ---------------------------------------------------------------- probes


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
        return {"to": host, "port": port, "error": error.strerror or str(error)}
    return {"to": host, "port": port, "complete": complete}


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


# ---------------------------------------------------------------- judges


def judge(case: Case) -> Iterator[Finding]:
    """Whether clocks agree, and nodes find and reach one another. One machine alone has no other nodes."""
    yield _clocks(case)
    if case.cluster.scheduler == "slurm":
        yield _names(case)
        yield _connection(case)
    yield _ports(case)


def _clocks(case: Case) -> Finding:
    skews = [(node.name, node.clock_ahead_s) for node in case.nodes if node.clock_ahead_s is not None]
    if not skews:
        return unknown("clocks", "no node reported its time", "see `python` and `jobs folder`")
    found: list[Fault] = [
        (name, f"{abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} this machine")
        for name, skew_s in skews
        if abs(skew_s) > MAX_SKEW_S
    ]
    for name, answer in case.answers("shared").items():
        ahead_s = answer.get("mtime")
        if ahead_s is not None and abs(ahead_s) > MAX_SKEW_S:
            found.append((name, f"{abs(ahead_s):.0f} s off the file server's clock"))
    if found:
        return warning(
            "clocks",
            f"{by_text(found)}; durations and remaining times will be wrong",
            "synchronise the time on these machines, for example `systemctl restart chronyd` (administrator)",
        )
    return ok("clocks", f"within {max(1.0, *(abs(skew_s) for _, skew_s in skews)):.0f} s of this machine's")


def _names(case: Case) -> Finding:
    check = "names of nodes"
    if errors := case.faults("names", error_of):
        return problem(
            check,
            by_text(errors),
            "put scontrol on the nodes' PATH, by setup: in the cluster's file; training asks it for the "
            "first node's name",
        )
    if len(case.nodes) < 2:
        return ok(check, ONE_NODE)
    hosts = {node.name: node.answers.get("start", {}).get("host") for node in case.nodes}
    faults: list[Fault] = []
    for node, answer in case.answers("names").items():
        for name, addresses in answer.get("resolved", {}).items():
            is_elsewhere = hosts.get(name) not in (None, hosts[node])
            if isinstance(addresses, str):
                faults.append((node, f"{name} is not resolved ({addresses})"))
            elif is_elsewhere and _only_loopback(addresses):
                faults.append((node, f"{name} resolves to {addresses[0]}, which is the node itself"))
    if faults:
        return problem(
            check,
            by_text(faults),
            "correct DNS, or add a line for each node to /etc/hosts of every node, with its address in the "
            "cluster's network (administrator)",
        )
    if len(set(hosts.values())) > 1 and (hidden := case.faults("names", _hides)):
        return problem(
            check,
            by_text(hidden),
            "set environment: {GLOO_SOCKET_IFNAME: eth0} in the cluster's file, with the interface that "
            "`ip route` shows on the node; or remove the host's name from 127.0.1.1 in its /etc/hosts "
            "(administrator)",
        )
    return ok(check, f"each of {len(case.nodes)} nodes resolves all of them")


def _hides(answer: Answer) -> str:
    if answer.get("interface") or not _only_loopback(answer.get("own")):
        return ""
    return f"its own host name resolves to {answer['own'][0]}, so gloo would reach no other node"


def _only_loopback(addresses: object) -> bool:
    if not isinstance(addresses, list) or not addresses:
        return False
    return all(str(address).startswith("127.") or address == "::1" for address in addresses)


def _connection(case: Case) -> Finding:
    check = "first node's port"
    if len(case.nodes) < 2:
        return ok(check, ONE_NODE)
    if faults := case.faults("connection", _refusal):
        return problem(
            check,
            by_text(faults),
            f"see `names of nodes`; the firewall between nodes must let TCP ports {FIRST_PORT} to "
            f"{LAST_PORT} pass (administrator), and no other program may listen there",
        )
    return ok(
        check, f"every other node reaches it, on a port that training uses ({FIRST_PORT} to {LAST_PORT})"
    )


def _refusal(answer: Answer) -> str:
    return f"{answer.get('to')}:{answer.get('port')}: {answer['error']}" if "error" in answer else ""


def _ports(case: Case) -> Finding:
    check = "free ports"
    if crowded := case.faults("ports", _crowded):
        fix = f"see which programs listen on {FIRST_PORT} to {LAST_PORT} (`ss -ltnp`), and move or stop them"
        return warning(check, by_text(crowded), fix)
    if shared := case.faults("ports", _ephemeral):
        return warning(
            check,
            f"{by_text(shared)}; a run may find its port in use and fail; `shiftbench retry --failed` takes "
            "another",
            f"on the nodes `sysctl net.ipv4.ip_local_reserved_ports={FIRST_PORT}-{LAST_PORT}` "
            "(administrator)",
        )
    return ok(check, f"{FIRST_PORT} to {LAST_PORT}")


def _crowded(answer: Answer) -> str:
    busy, tried = answer.get("busy", 0), answer.get("tried", 1)
    return f"{busy} of {tried} tested ports are in use" if busy > MANY_BUSY * tried else error_of(answer)


def _ephemeral(answer: Answer) -> str:
    low, high = answer.get("ephemeral") or (0, 0)
    if low > LAST_PORT or high < FIRST_PORT:
        return ""
    return f"the kernel assigns ports {low} to {high} to outgoing connections"


TOPIC = Topic(
    "nodes",
    judge,
    on_nodes={
        "clock": probe_clock,
        "names": probe_names,
        "connection": probe_connection,
        "ports": probe_ports,
    },
)
