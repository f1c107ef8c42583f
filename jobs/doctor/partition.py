"""The partition and its nodes against what the cluster's file asks for."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jobs.cluster.clusters import SlurmCluster, time_s
from jobs.cluster.slurm_commands import ask
from jobs.doctor.finding import Finding, ok, problem

UNUSABLE = ("down", "drain", "fail", "maint", "unk", "error", "power", "not_resp", "no_respond", "inval")


@dataclass(frozen=True)
class Node:
    """A node as sinfo sees it; memory in MiB."""

    name: str
    state: str
    cpus: int
    memory_mib: int
    gpus: int

    @property
    def is_usable(self) -> bool:
        state = self.state.lower()
        return not state.endswith("*") and not any(word in state for word in UNUSABLE)


def partitions() -> dict[str, dict[str, str]]:
    """Every partition that this user sees, by name. Raises SlurmError."""
    rows = [fields(line) for line in ask("scontrol", "--all", "show", "partition", "--oneliner").splitlines()]
    return {row["PartitionName"]: row for row in rows if "PartitionName" in row}


def fields(line: str) -> dict[str, str]:
    """`A=1 B=two` as a dict."""
    return dict(re.findall(r"(\S+?)=(\S*)", line))


def nodes() -> dict[str, list[Node]]:
    """The nodes of every partition, by its name. Raises SlurmError."""
    found: dict[str, list[Node]] = {}
    for line in ask("sinfo", "--all", "--noheader", "--Node", "--format=%R|%N|%T|%c|%m|%G").splitlines():
        name, _, rest = line.partition("|")
        if (node := parse_node(rest)) is not None:
            found.setdefault(name, []).append(node)
    return found


def parse_node(row: str) -> Node | None:
    """`n1|idle|4|4000|gpu:h100:8(S:0-1)`."""
    parts = [part.strip().rstrip("+") for part in row.split("|")]
    if len(parts) != 5 or not parts[2].isdigit() or not parts[3].isdigit():
        return None
    return Node(parts[0], parts[1], int(parts[2]), int(parts[3]), gpus_in(parts[4]))


def sharing(name: str, known: Mapping[str, list[Node]]) -> set[str]:
    """Partitions that have a node in common with `name`."""
    own = {node.name for node in known.get(name, [])}
    return {other for other, theirs in known.items() if own & {node.name for node in theirs}} - {name}


def gpus_in(gres: str) -> int:
    """GPUs in a node's gres: `gpu:2`, `gpu:h100:8(S:0-1)`, `gpu:a:1,gpu:b:3`, `gpu`."""
    plain = re.sub(r"\([^)]*\)", "", gres)
    found = [part.split(":") for part in plain.split(",") if part.split(":")[0] == "gpu"]
    return sum(int(part[-1]) if part[-1].isdigit() else 1 for part in found)


def chosen(cluster: SlurmCluster, known: Mapping[str, Mapping[str, str]]) -> str | None:
    """The partition that jobs go to: the cluster's, or the site's default."""
    if cluster.partition is not None:
        return cluster.partition
    return next((name for name, row in known.items() if row.get("Default") == "YES"), None)


def judge_partition(cluster: SlurmCluster, known: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    """Whether it is there, open, and long enough."""
    name, names = chosen(cluster, known), ", ".join(sorted(known)) or "none"
    if name is None:
        yield problem(
            "partition", "the site has no default", f"partition: in the cluster's file, one of {names}"
        )
        return
    row = known.get(name)
    if row is None:
        yield problem(
            "partition",
            f"{name}: there is none of this name that you may see",
            f"partition: in the cluster's file, one of {names}",
        )
        return
    state = row.get("State", "")
    if state != "UP":
        others = sorted(n for n, r in known.items() if r.get("State") == "UP")
        yield problem(
            "partition",
            f"{name} is {state}: its jobs do not start",
            f"`scontrol update PartitionName={name} State=UP` (the admin's), or another partition in the "
            f"cluster's file: {', '.join(others) or 'none is UP'}",
        )
    else:
        yield ok("partition", f"{name} is UP, with {row.get('TotalNodes', '?')} nodes")
    yield _time(cluster, name, row)


def _time(cluster: SlurmCluster, name: str, row: Mapping[str, str]) -> Finding:
    limit, default = row.get("MaxTime", "UNLIMITED"), row.get("DefaultTime", "NONE")
    if cluster.time is None:
        given = limit if default in ("NONE", "") else default
        if given == "UNLIMITED":
            return ok("time", f"no limit in the cluster's file, and none of {name}")
        return ok("time", f"no limit in the cluster's file: jobs get {given}, the default of {name}")
    if limit != "UNLIMITED" and time_s(cluster.time) > time_s(limit):
        return problem(
            "time",
            f"{cluster.time!r} is more than {name} allows (MaxTime={limit})",
            f"time: '{limit}' or less in the cluster's file: near its limit a run is requeued, and resumes",
        )
    return ok("time", f"{cluster.time!r}, of at most {limit}")


def judge_nodes(
    cluster: SlurmCluster, name: str, row: Mapping[str, str], nodes: list[Node], excluded: set[str]
) -> Iterator[Finding]:
    """Whether enough nodes are there, and hold what a run asks for."""
    left = [node for node in nodes if node.name not in excluded]
    usable = [node for node in left if node.is_usable]
    most = row.get("MaxNodes", "UNLIMITED")
    if most.isdigit() and cluster.nodes > int(most):
        mend = f"nodes: {most} or fewer in the cluster's file"
        yield problem("nodes", f"{cluster.nodes} a run, but {name} gives a job at most {most}", mend)
    elif len(left) < cluster.nodes:
        mend = f"nodes: {len(left)} or fewer in the cluster's file, or a larger partition"
        yield problem("nodes", f"{cluster.nodes} a run, but {name} has {len(left)}", mend)
    elif len(usable) < cluster.nodes:
        bad = ", ".join(f"{node.name} ({node.state})" for node in left if not node.is_usable)
        yield problem(
            "nodes",
            f"{cluster.nodes} a run, but only {len(usable)} of {name} can work: {bad}",
            "`sinfo -R` tells why; `scontrol update NodeName=… State=RESUME` (the admin's) takes them back",
        )
    else:
        yield ok("nodes", f"{cluster.nodes} a run; {len(usable)} of {len(left)} in {name} can work")
    yield _gpus(cluster, name, left)
    cpus = cluster.tasks_per_node * (cluster.cpus_per_task or 1)
    if left and sum(node.cpus >= cpus for node in left) < cluster.nodes:
        most_cpus = max(node.cpus for node in left) // cluster.tasks_per_node
        mend = (
            f"cpus_per_task: {most_cpus} or fewer in the cluster's file"
            if most_cpus
            else "fewer ranks a node"
        )
        yield problem("CPUs", f"{cpus} on each node, more than the nodes of {name} have", mend)
    if left and cluster.mem and sum(node.memory_mib >= mib(cluster.mem) for node in left) < cluster.nodes:
        most_mib = max(node.memory_mib for node in left)
        yield problem(
            "mem",
            f"{cluster.mem} on each node, more than the nodes of {name} have ({most_mib} MiB)",
            f"mem: {most_mib}M or less in the cluster's file",
        )


def _gpus(cluster: SlurmCluster, name: str, nodes: list[Node]) -> Finding:
    if not cluster.gpus_per_node:
        return ok("GPUs of the nodes", "no GPUs asked for")
    enough = [node for node in nodes if node.gpus >= cluster.gpus_per_node]
    if len(enough) >= cluster.nodes:
        return ok("GPUs of the nodes", f"{len(enough)} nodes have {cluster.gpus_per_node} or more")
    most = max((node.gpus for node in nodes), default=0)
    found = f"{cluster.gpus_per_node} on each of {cluster.nodes}, but a node of {name} has {most or 'none'}"
    if most:
        mend = f"gpus_per_node: {most} or fewer in the cluster's file, or a partition with larger nodes"
        return problem("GPUs of the nodes", found, mend)
    return problem(
        "GPUs of the nodes",
        found,
        "remove gpus_per_node from the cluster's file, or name a partition with GPUs; if the nodes do have "
        "some, GresTypes=gpu, Gres=gpu:N of the nodes, and gres.conf (the admin's)",
    )


def mib(mem: str) -> int:
    """`64G` in MiB; a bare number is MiB already."""
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", mem)
    assert match is not None, "the cluster's file has been validated"
    factor = {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}[match[2]]
    return int(int(match[1]) * factor)


def expand(node_list: str | None) -> set[str]:
    """The names in `n[1-3,7]`. Raises SlurmError."""
    return set(ask("scontrol", "show", "hostnames", node_list).split()) if node_list else set()
