"""The nodes' answers judged: those of the network and the shared files here, of the software in `software`."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from jobs.doctor.finding import Finding, ok, problem, unknown, warning
from jobs.doctor.meeting import Meeting
from jobs.doctor.nodes import Node
from suite.launch import FIRST_PORT, NUM_PORTS

MAX_SKEW_S = 5.0
LEAST_SHM_MIB = 2000
MANY_BUSY = 0.1
JOBS_FOLDER = (
    "jobs_folder: in the cluster's file, a folder that the login machine and all nodes have in common"
)


def by_text(found: Iterable[tuple[str, str]]) -> str:
    """`n1, n2: refused; n3: no such host` from (node, text)."""
    groups: dict[str, list[str]] = {}
    for node, text in found:
        groups.setdefault(text, []).append(node)
    return "; ".join(f"{', '.join(nodes)}: {text}" for text, nodes in groups.items())


def each(
    nodes: Sequence[Node], probe: str, fault: Callable[[dict[str, object]], str]
) -> list[tuple[str, str]]:
    """(node, fault) of those whose answer to a probe has one. Nodes without an answer are `silent`'s business."""
    return [(n.name, text) for n in nodes if (a := n.answers.get(probe)) is not None and (text := fault(a))]


def error_of(answer: dict[str, object]) -> str:
    """Why a probe failed; empty when it did not."""
    return str(answer.get("error", ""))


def start(nodes: Sequence[Node], python: str, snapshot: str, said: str) -> Iterator[Finding]:
    """Whether every node has our sources and the interpreter, and came to the end of its probes."""
    blind = [node.name for node in nodes if not node.answers.get("start", {}).get("code", True)]
    if blind:
        yield problem("jobs folder", f"{snapshot} is not seen from {', '.join(blind)}", JOBS_FOLDER)
    else:
        yield ok("jobs folder", "seen from every node")
    bare = [node.name for node in nodes if not node.answers.get("start", {}).get("python", True)]
    if bare:
        yield problem(
            "python",
            f"{python} is not on {', '.join(bare)}",
            "python: in the cluster's file, an interpreter that the nodes have, or a line of setup that loads it",
        )
    cut = [n for n in nodes if "end" not in n.answers and n.name not in {*blind, *bare}]
    for node in cut:
        last = list(node.answers)[-1]
        yield problem(
            "python",
            f"{node.name}: it ended after the check of {last}" + (f": {said}" if said else ""),
            "what it said tells; python: in the cluster's file must be 3.11 or newer with shiftbench's packages",
        )


def clocks(nodes: Sequence[Node]) -> Finding:
    """Clocks of the nodes, of the login machine and of the file server."""
    skews = {n.name: n.clock_ahead_s for n in nodes if n.clock_ahead_s is not None}
    if not skews:
        return unknown("clocks", "no node told its time", "see `python` and `jobs folder`")
    found = [
        (name, f"{abs(s):.0f} s {'ahead of' if s > 0 else 'behind'} this machine")
        for name, s in skews.items()
        if abs(s) > MAX_SKEW_S
    ]
    for node in nodes:
        ahead = node.answers.get("shared", {}).get("mtime")
        if ahead is not None and abs(ahead) > MAX_SKEW_S:
            found.append((node.name, f"the file server is {abs(ahead):.0f} s off its clock"))
    if found:
        mend = "time synchronisation on these machines: `chronyc tracking`, `systemctl restart chronyd` (the admin's)"
        return warning("clocks", by_text(found), mend)
    return ok("clocks", f"within {max(1.0, *(abs(s) for s in skews.values())):.0f} s of this machine's")


def names(nodes: Sequence[Node]) -> Finding:
    """Whether every node's name leads every other node to it."""
    check = "names of nodes"
    if errors := each(nodes, "names", error_of):
        mend = "scontrol must be on the nodes' PATH: training finds its first node by it; a line of setup can see to it"
        return problem(check, by_text(errors), mend)
    if len(nodes) < 2:
        return ok(check, "only one node")
    hosts = {node.name: node.answers.get("start", {}).get("host") for node in nodes}
    faults: list[tuple[str, str]] = []
    for node in nodes:
        answer = node.answers.get("names", {})
        for name, addresses in answer.get("resolved", {}).items():
            if isinstance(addresses, str):
                faults.append((node.name, f"{name} is not resolved ({addresses})"))
            elif hosts.get(name) not in (None, hosts[node.name]) and _only_loopback(addresses):
                faults.append((node.name, f"{name} is {addresses[0]}, which leads back to itself"))
    if faults:
        mend = "DNS, or a line for each node in /etc/hosts of every node, with its address in the cluster's network (the admin's)"
        return problem(check, by_text(faults), mend)
    if len(set(hosts.values())) > 1:
        alone = [
            n.name
            for n in nodes
            if (a := n.answers.get("names", {}))
            and not a.get("interface")
            and _only_loopback(a.get("own", []))
        ]
        if alone:
            return problem(
                check,
                f"{', '.join(alone)}: its own host name is a loopback address, so gloo would listen on that alone",
                "environment: {GLOO_SOCKET_IFNAME: eth0} in the cluster's file (the interface that `ip route` "
                "shows there), or take the host's name off 127.0.1.1 in its /etc/hosts",
            )
    return ok(check, f"each of {len(nodes)} nodes resolves all of them")


def _only_loopback(addresses: object) -> bool:
    return (
        isinstance(addresses, list)
        and bool(addresses)
        and all(str(a).startswith("127.") or a == "::1" for a in addresses)
    )


def connection(nodes: Sequence[Node]) -> Finding:
    """Whether the nodes reach the first one as training would."""
    check = "first node's port"
    if len(nodes) < 2:
        return ok(check, "only one node")
    faults = each(
        nodes, "connection", lambda a: f"{a.get('to')}:{a.get('port')}: {error_of(a)}" if error_of(a) else ""
    )
    last = FIRST_PORT + NUM_PORTS - 1
    if faults:
        return problem(
            check,
            by_text(faults),
            f"the firewall between nodes must let TCP ports {FIRST_PORT} to {last} pass, and nothing else may "
            "listen there; see `names of nodes` too",
        )
    return ok(check, f"reached from every other node, as training does ({FIRST_PORT} to {last})")


def ports(nodes: Sequence[Node]) -> Finding:
    """Whether the ports that training takes are free."""
    check, last = "free ports", FIRST_PORT + NUM_PORTS - 1
    crowded = each(
        nodes,
        "ports",
        lambda a: (
            f"{a['busy']} of {a['tried']} tried are taken"
            if float(str(a.get("busy", 0))) > MANY_BUSY * float(str(a.get("tried", 1)))
            else ""
        ),
    )
    if crowded:
        mend = f"see what listens on {FIRST_PORT} to {last} there: `ss -ltnp`; or MASTER_PORT in the cluster's environment"
        return warning(check, by_text(crowded), mend)

    def overlaps(answer: dict[str, object]) -> str:
        low, high = answer.get("ephemeral") or (last + 1, last + 1)  # type: ignore[misc]
        return f"the kernel gives out {low} to {high} itself" if low <= last and high >= FIRST_PORT else ""

    if shared := each(nodes, "ports", overlaps):
        mend = (
            f"`sysctl net.ipv4.ip_local_reserved_ports={FIRST_PORT}-{last}` (the admin's): else a run may now and "
            "then find its port taken, and is requeued"
        )
        return warning(check, by_text(shared), mend)
    return ok(check, f"{FIRST_PORT} to {last}")


def shared_files(nodes: Sequence[Node], meeting: Meeting, output_dir: str) -> Iterator[Finding]:
    """Whether the output folder is one and the same, and its locks hold between machines."""
    check = "output folder"
    mend = f"--output-dir with a folder that the nodes share with this machine, not {output_dir}"
    unread = each(nodes, "shared", lambda a: str(a.get("read", "")) or error_of(a))
    unwritten = each(nodes, "shared", lambda a: str(a.get("write", "")))
    lost = [
        (n.name, "what it wrote is not seen here")
        for n in nodes
        if n.answers.get("shared", {}).get("written") and not meeting.is_seen_from(n.name)
    ]
    if unread or lost:
        yield problem(check, f"{output_dir} is not shared: " + by_text([*unread, *lost]), mend)
        return
    if unwritten:
        yield problem(
            check, f"{output_dir} cannot be written: " + by_text(unwritten), f"{mend}; or its rights there"
        )
        return
    if any("shared" in node.answers for node in nodes):
        yield ok(check, "shared with every node, and renames replace at once")
    deaf = each(
        nodes, "shared", lambda a: "" if a.get("lock", "noticed") == "noticed" else f"lock: {a['lock']}"
    )
    if deaf or meeting.lock_error:
        here = [("this machine", f"lock: {meeting.lock_error}")] if meeting.lock_error else []
        yield problem(
            "locks",
            by_text([*here, *deaf]) + "; two processes could write one run",
            "mount the file system with locks over all machines: Lustre with -o flock, NFS without nolock or "
            "local_lock (the admin's); or --output-dir on one that has them",
        )
    elif any("lock" in node.answers.get("shared", {}) for node in nodes):
        yield ok("locks", "a lock held here is noticed on every node")


def shm(nodes: Sequence[Node]) -> Finding:
    """Whether there is shared memory for loaders and NCCL."""
    check = "/dev/shm"
    free = {n.name: n.answers["shm"].get("free_mib") for n in nodes if "shm" in n.answers}
    small = [(n, f"{mib} MiB free") for n, mib in free.items() if mib is not None and mib < LEAST_SHM_MIB]
    small += each(nodes, "shm", error_of)
    if small:
        mend = (
            "`mount -o remount,size=50% /dev/shm` (the admin's); in a container --shm-size=16g or --ipc=host"
        )
        return warning(check, by_text(small), mend)
    if not free:
        return unknown(check, "no node told", "see `python` and `jobs folder`")
    return ok(check, f"{min(mib for mib in free.values() if mib is not None) / 1024:.0f} GiB free or more")


def data(nodes: Sequence[Node], paths: Sequence[str]) -> Iterator[Finding]:
    """Whether every node can read the images."""
    if not paths:
        yield ok("data", "none named: --data PATH or --config EXPERIMENT.yaml has it looked at")
    for path in paths:
        faults = each(nodes, "data", lambda a, path=path: str(a.get(path) or "") or error_of(a))  # type: ignore[misc]
        if faults:
            mend = (
                "data.path in the experiment (or --data) with a folder that holds train/CLASS/ and val/CLASS/ "
                "and that every node can read; mount or copy it there"
            )
            yield problem("data", f"{path}: " + by_text(faults), mend)
        elif any("data" in node.answers for node in nodes):
            yield ok("data", f"{path} is read on every node")
