"""How the nodes reach one another, and whether their clocks agree, judged from their answers."""

from collections.abc import Iterator, Sequence

from jobs.doctor.answers import Answer, Fault, by_text, each, error_of
from jobs.doctor.finding import Finding, ok, problem, unknown, warning
from jobs.doctor.nodes import Node
from suite.launch import FIRST_PORT, NUM_PORTS

MAX_SKEW_S = 5.0
MANY_BUSY = 0.1
LAST_PORT = FIRST_PORT + NUM_PORTS - 1
ONE_NODE = "only one node"


def clocks(nodes: Sequence[Node]) -> Finding:
    """Clocks of the nodes, of this machine and of the file server."""
    skews = [(node.name, node.clock_ahead_s) for node in nodes if node.clock_ahead_s is not None]
    if not skews:
        return unknown("clocks", "no node told its time", "see `python` and `jobs folder`")
    found: list[Fault] = [
        (name, f"{abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} this machine")
        for name, skew_s in skews
        if abs(skew_s) > MAX_SKEW_S
    ]
    for node in nodes:
        ahead_s = node.answers.get("shared", {}).get("mtime")
        if ahead_s is not None and abs(ahead_s) > MAX_SKEW_S:
            found.append((node.name, f"{abs(ahead_s):.0f} s off the file server's clock"))
    if found:
        return warning(
            "clocks",
            f"{by_text(found)}; durations and times left will be wrong",
            "time synchronisation there, such as `systemctl restart chronyd` (the admin's)",
        )
    return ok("clocks", f"within {max(1.0, *(abs(skew_s) for _, skew_s in skews)):.0f} s of this machine's")


def names(nodes: Sequence[Node]) -> Finding:
    """Whether every node's name leads every other node to it."""
    check = "names of nodes"
    if errors := each(nodes, "names", error_of):
        return problem(
            check,
            by_text(errors),
            "scontrol on the nodes' PATH, by a line of setup in the cluster's file: training asks it for its "
            "first node",
        )
    if len(nodes) < 2:
        return ok(check, ONE_NODE)
    hosts = {node.name: node.answers.get("start", {}).get("host") for node in nodes}
    faults: list[Fault] = []
    for node in nodes:
        for name, addresses in node.answers.get("names", {}).get("resolved", {}).items():
            is_elsewhere = hosts.get(name) not in (None, hosts[node.name])
            if isinstance(addresses, str):
                faults.append((node.name, f"{name} is not resolved ({addresses})"))
            elif is_elsewhere and _only_loopback(addresses):
                faults.append((node.name, f"{name} is {addresses[0]}, which leads back to itself"))
    if faults:
        return problem(
            check,
            by_text(faults),
            "DNS, or a line for each node in /etc/hosts of every node, with its address in the cluster's "
            "network (the admin's)",
        )
    if len(set(hosts.values())) > 1 and (alone := each(nodes, "names", _hides)):
        return problem(
            check,
            by_text(alone),
            "environment: {GLOO_SOCKET_IFNAME: eth0} in the cluster's file (the interface that `ip route` "
            "shows there), or take the host's name off 127.0.1.1 in its /etc/hosts (the admin's)",
        )
    return ok(check, f"each of {len(nodes)} nodes resolves all of them")


def _hides(answer: Answer) -> str:
    if answer.get("interface") or not _only_loopback(answer.get("own")):
        return ""
    return f"its own host name is {answer['own'][0]}, so gloo would hear no other node"


def _only_loopback(addresses: object) -> bool:
    if not isinstance(addresses, list) or not addresses:
        return False
    return all(str(address).startswith("127.") or address == "::1" for address in addresses)


def connection(nodes: Sequence[Node]) -> Finding:
    """Whether the nodes reach the first one as training would."""
    check = "first node's port"
    if len(nodes) < 2:
        return ok(check, ONE_NODE)
    faults = each(
        nodes, "connection", lambda a: f"{a.get('to')}:{a.get('port')}: {a['error']}" if "error" in a else ""
    )
    if faults:
        return problem(
            check,
            by_text(faults),
            f"see `names of nodes`; the firewall between nodes must let TCP ports {FIRST_PORT} to "
            f"{LAST_PORT} pass (the admin's), and nothing else may listen there",
        )
    return ok(check, f"reached from every other node, as training does ({FIRST_PORT} to {LAST_PORT})")


def ports(nodes: Sequence[Node]) -> Finding:
    """Whether the ports that training takes are free."""
    check = "free ports"
    if crowded := each(nodes, "ports", _crowded):
        return warning(
            check,
            by_text(crowded),
            f"see what listens on {FIRST_PORT} to {LAST_PORT} there (`ss -ltnp`), and move or end it",
        )
    if shared := each(nodes, "ports", _ephemeral):
        return warning(
            check,
            f"{by_text(shared)}: now and then a run finds its port taken and fails, and "
            "`shiftbench retry --failed` takes another",
            f"`sysctl net.ipv4.ip_local_reserved_ports={FIRST_PORT}-{LAST_PORT}` on the nodes (the admin's)",
        )
    return ok(check, f"{FIRST_PORT} to {LAST_PORT}")


def _crowded(answer: Answer) -> str:
    busy, tried = answer.get("busy", 0), answer.get("tried", 1)
    return f"{busy} of {tried} tried are taken" if busy > MANY_BUSY * tried else error_of(answer)


def _ephemeral(answer: Answer) -> str:
    low, high = answer.get("ephemeral") or (0, 0)
    if low > LAST_PORT or high < FIRST_PORT:
        return ""
    return f"the kernel gives out {low} to {high} itself, for outgoing connections"


def together(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Whether the ranks' group forms and sums."""
    answered = [node.answers["together"] for node in nodes if node.answers.get("together")]
    if len(nodes) < 2:
        yield ok("process group", f"{ONE_NODE}: the runs ask for no other")
        return
    if not answered:
        yield unknown("process group", "not tried", "see `first node's port` and `packages`")
        return
    if faults := each(nodes, "together", error_of):
        if any("EADDRINUSE" in fault for _, fault in faults):
            listens = "another job or program listens on that port of the first node: see `ss -ltnp` there"
            yield problem("process group", by_text(faults), f"{listens}; run the doctor again")
            return
        yield problem(
            "process group",
            by_text(faults),
            "environment: {GLOO_SOCKET_IFNAME: eth0, NCCL_SOCKET_IFNAME: eth0} in the cluster's file, "
            "with the interface that joins the nodes (`ip route` there); all ports must be open there",
        )
    else:
        yield ok("process group", f"{len(nodes)} nodes sum over {answered[0].get('backend', 'gloo')}")
