"""The partition and its nodes, compared with what the cluster's file asks for."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.cluster.slurm_commands import ask
from jobs.doctor.finding import Answer, Case, Finding, Topic, error_of, ok, problem, unknown

if TYPE_CHECKING:
    from jobs.cluster.clusters import SlurmCluster

UNUSABLE = ("down", "drain", "fail", "maint", "unk", "error", "power", "not_resp", "no_respond", "inval")
NODE_FORMAT = "%R|%N|%T|%c|%m|%G"


@dataclass(frozen=True)
class SlurmNode:
    """A node as sinfo prints it; memory in MiB."""

    name: str
    state: str
    cpus: int
    memory_mib: int
    gpus: int

    @property
    def is_usable(self) -> bool:
        state = self.state.lower()
        return not state.endswith("*") and not any(word in state for word in UNUSABLE)


def probe(case: Case) -> Answer:
    """sinfo's line for each node of each partition, and the nodes of `exclude`. Raises SlurmError."""
    excluded = case.slurm.exclude
    return {
        "sinfo": ask("sinfo", "--all", "--noheader", "--Node", f"--format={NODE_FORMAT}").splitlines(),
        "excluded": ask("scontrol", "show", "hostnames", excluded).split() if excluded else [],
    }


def judge(case: Case) -> Iterator[Finding]:
    """Whether the partition exists, is open and allows the time, and its nodes hold what a run asks for."""
    cluster, known = case.slurm, partitions_of(case)
    name, names = chosen(cluster, known), ", ".join(sorted(known)) or "none"
    fix = f"set partition: in the cluster's file to one of {names}"
    if name is None:
        yield problem("partition", "the site has no default partition", fix)
        return
    row = known.get(name)
    if row is None:
        yield problem("partition", f"there is no partition {name} that you may see", fix)
        return
    if (state := row.get("State", "")) != "UP":
        others = sorted(n for n, r in known.items() if r.get("State") == "UP")
        yield problem(
            "partition",
            f"{name} is {state}, so its jobs do not start",
            f"`scontrol update PartitionName={name} State=UP` (administrator), or name another partition in "
            f"the cluster's file: {', '.join(others) or 'none is UP'}",
        )
    else:
        yield ok("partition", f"{name} is UP, with {row.get('TotalNodes', '?')} nodes")
    yield _time(cluster, name, row)
    if error := error_of(case.here["nodes"]):
        yield unknown(
            "nodes", f"sinfo: {error}", "check that `sinfo` works here and that `exclude` is a list of nodes"
        )
    else:
        yield from _nodes(cluster, name, row, nodes_left(case, name))


def partitions_of(case: Case) -> dict[str, Mapping[str, str]]:
    """Every partition that this user sees, by name."""
    rows = case.here["controller"]["partitions"]
    return {row["PartitionName"]: row for row in rows if "PartitionName" in row}


def nodes_by_partition(case: Case) -> dict[str, list[SlurmNode]]:
    """The nodes of each partition; none where sinfo failed."""
    found: dict[str, list[SlurmNode]] = {}
    for line in case.here["nodes"].get("sinfo", []):
        name, _, rest = line.partition("|")
        if (node := parse_node(rest)) is not None:
            found.setdefault(name, []).append(node)
    return found


def nodes_left(case: Case, name: str) -> list[SlurmNode]:
    """The nodes of a partition that the cluster's file does not exclude."""
    excluded = case.here["nodes"].get("excluded", [])
    return [node for node in nodes_by_partition(case).get(name, []) if node.name not in excluded]


def parse_node(row: str) -> SlurmNode | None:
    """Parses `n1|idle|4|4000|gpu:h100:8(S:0-1)`; None for anything else."""
    parts = [part.strip().rstrip("+") for part in row.split("|")]
    if len(parts) != 5 or not parts[2].isdigit() or not parts[3].isdigit():
        return None
    return SlurmNode(parts[0], parts[1], int(parts[2]), int(parts[3]), gpus_in(parts[4]))


def gpus_in(gres: str) -> int:
    """Counts GPUs in a node's gres: `gpu:2`, `gpu:h100:8(S:0-1)`, `gpu:a:1,gpu:b:3`, `gpu`."""
    plain = re.sub(r"\([^)]*\)", "", gres)
    found = [part.split(":") for part in plain.split(",") if part.split(":")[0] == "gpu"]
    return sum(int(part[-1]) if part[-1].isdigit() else 1 for part in found)


def chosen(cluster: "SlurmCluster", known: Mapping[str, Mapping[str, str]]) -> str | None:
    """The partition that jobs go to: the cluster's, or the site's default."""
    if cluster.partition is not None:
        return cluster.partition
    return next((name for name, row in known.items() if row.get("Default") == "YES"), None)


def num_nodes_to_ask(case: Case) -> int:
    """A run's number of nodes, but at least two where the partition gives two, so that they can connect."""
    cluster, known = case.slurm, partitions_of(case)
    name = chosen(cluster, known) or ""
    if name not in known or error_of(case.here["nodes"]):
        return cluster.nodes
    free = len({node.name for node in nodes_left(case, name) if node.is_usable})
    most = known[name].get("MaxNodes", "UNLIMITED")
    return max(cluster.nodes, min(2, free, int(most) if most.isdigit() else free))


def _time(cluster: "SlurmCluster", name: str, row: Mapping[str, str]) -> Finding:
    from jobs.cluster.clusters import time_s

    limit, default = row.get("MaxTime", "UNLIMITED"), row.get("DefaultTime", "NONE")
    if cluster.time is None:
        given = limit if default in ("NONE", "") else default
        if given == "UNLIMITED":
            return ok("time", f"neither the cluster's file nor {name} has a limit")
        return ok("time", f"no limit in the cluster's file: jobs get {given}, the default of {name}")
    if limit != "UNLIMITED" and time_s(cluster.time) > time_s(limit):
        return problem(
            "time",
            f"{cluster.time!r} is more than {name} allows (MaxTime={limit})",
            f"set time: '{limit}' or less in the cluster's file; a run that nears its limit is requeued and "
            "resumes",
        )
    return ok("time", f"{cluster.time!r}, and at most {limit} is allowed")


def _nodes(
    cluster: "SlurmCluster", name: str, row: Mapping[str, str], left: Sequence[SlurmNode]
) -> Iterator[Finding]:
    usable = [node for node in left if node.is_usable]
    most = row.get("MaxNodes", "UNLIMITED")
    each = f"each run takes {cluster.nodes}"
    if most.isdigit() and cluster.nodes > int(most):
        fix = f"set nodes: {most} or fewer in the cluster's file"
        yield problem("nodes", f"{each}, but {name} gives a job at most {most}", fix)
    elif len(left) < cluster.nodes:
        fix = f"set nodes: {len(left)} or fewer in the cluster's file, or choose a larger partition"
        yield problem("nodes", f"{each}, but {name} has {len(left)}", fix)
    elif len(usable) < cluster.nodes:
        bad = ", ".join(f"{node.name} ({node.state})" for node in left if not node.is_usable)
        yield problem(
            "nodes",
            f"{each}, but only {len(usable)} of {name} are usable: {bad}",
            "`sinfo -R` gives the reason; then `scontrol update NodeName=… State=RESUME` (administrator)",
        )
    else:
        yield ok("nodes", f"{each}; {len(usable)} of {len(left)} in {name} are usable")
    yield _gpus(cluster, name, left)
    cpus = cluster.tasks_per_node * (cluster.cpus_per_task or 1)
    if left and sum(node.cpus >= cpus for node in left) < cluster.nodes:
        most_cpus = max(node.cpus for node in left) // cluster.tasks_per_node
        fix = f"cpus_per_task: {most_cpus} or fewer" if most_cpus else "fewer ranks on each node"
        found = f"a run takes {cpus} on each node, more than the nodes of {name} have"
        yield problem("CPUs", found, f"set {fix} in the cluster's file")
    if left and cluster.mem and sum(node.memory_mib >= mib(cluster.mem) for node in left) < cluster.nodes:
        most_mib = max(node.memory_mib for node in left)
        yield problem(
            "mem",
            f"a run takes {cluster.mem} on each node, more than the nodes of {name} have ({most_mib} MiB)",
            f"set mem: {most_mib}M or less in the cluster's file",
        )


def _gpus(cluster: "SlurmCluster", name: str, nodes: Sequence[SlurmNode]) -> Finding:
    check = "GPUs of the nodes"
    if not cluster.gpus_per_node:
        return ok(check, "the cluster's file asks for none")
    enough = [node for node in nodes if node.gpus >= cluster.gpus_per_node]
    if len(enough) >= cluster.nodes:
        return ok(check, f"{len(enough)} nodes have {cluster.gpus_per_node} or more")
    most = max((node.gpus for node in nodes), default=0)
    asked = f"a run takes {cluster.gpus_per_node} on each of {cluster.nodes} nodes"
    if most:
        fix = f"set gpus_per_node: {most} or fewer in the cluster's file, or a partition with larger nodes"
        return problem(check, f"{asked}, but no node of {name} has more than {most}", fix)
    return problem(
        check,
        f"{asked}, but the nodes of {name} have none",
        "remove gpus_per_node from the cluster's file, or set a partition with GPUs; if the nodes do have "
        "GPUs, set GresTypes=gpu, Gres=gpu:N of the nodes, and gres.conf (administrator)",
    )


def mib(mem: str) -> int:
    """Converts `64G` to MiB; a number without a unit is in MiB."""
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", mem)
    assert match is not None, "the cluster's file has been validated"
    factor = {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}[match[2]]
    return int(int(match[1]) * factor)


TOPIC = Topic("login", judge, here={"nodes": probe}, blocking=frozenset(["partition", "time", "nodes"]))
