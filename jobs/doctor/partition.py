"""The partition and its nodes, compared with what the cluster's file asks for."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jobs.cluster.slurm_commands import ask, said_by
from jobs.doctor.finding import Answer, Case, Topic, Verdict

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


def partitions_of(case: Case) -> dict[str, Mapping[str, str]]:
    """Every partition that this user sees, by name."""
    rows = case.here["controller"]["partitions"]
    return {row["PartitionName"]: row for row in rows if "PartitionName" in row}


def chosen(case: Case) -> str:
    """The partition that jobs go to: the cluster's, or the site's default; empty if there is none."""
    defaults = (name for name, row in partitions_of(case).items() if row.get("Default") == "YES")
    return next(defaults, "") if case.slurm.partition is None else case.slurm.partition


def nodes_by_partition(case: Case) -> dict[str, list[SlurmNode]]:
    """The nodes of each partition; none where sinfo failed."""
    found: dict[str, list[SlurmNode]] = {}
    for line in case.here["nodes"].get("sinfo", []):
        name, _, rest = line.partition("|")
        if (node := parse_node(rest)) is not None:
            found.setdefault(name, []).append(node)
    return found


def parse_node(row: str) -> SlurmNode | None:
    """Parse `n1|idle|4|4000|gpu:h100:8(S:0-1)`; None for anything else."""
    if (match := re.fullmatch(r"\s*(\S+)\|(\S+)\|(\d+)\+?\|(\d+)\+?\|(.*)", row)) is None:
        return None
    return SlurmNode(match[1], match[2], int(match[3]), int(match[4]), gpus_in(match[5]))


def gpus_in(gres: str) -> int:
    """Count GPUs in a node's gres: `gpu:2`, `gpu:h100:8(S:0-1)`, `gpu:a:1,gpu:b:3`, `gpu`."""
    plain = re.sub(r"\([^)]*\)", "", gres)
    found = [part.split(":") for part in plain.split(",") if part.split(":")[0] == "gpu"]
    return sum(int(part[-1]) if part[-1].isdigit() else 1 for part in found)


def mib(mem: str) -> int:
    """Convert `64G` to MiB; a number without a unit is in MiB."""
    factor = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}.get(mem.upper().rstrip("B")[-1], 1)
    return int(int(mem.upper().rstrip("BKMGT")) * factor)


def _site(case: Case) -> tuple[Mapping[str, str], list[SlurmNode]]:
    """The chosen partition's row, empty if there is none, and its nodes that the file does not exclude."""
    nodes, excluded = nodes_by_partition(case).get(chosen(case), []), case.here["nodes"].get("excluded", [])
    return partitions_of(case).get(chosen(case), {}), [node for node in nodes if node.name not in excluded]


def num_nodes_to_ask(case: Case) -> int:
    """A run's number of nodes, but at least two where the partition gives two, so that they can connect."""
    row, left = _site(case)
    free, most = len({node.name for node in left if node.is_usable}), row.get("MaxNodes", "UNLIMITED")
    return max(case.slurm.nodes, min(2, free, int(most) if most.isdigit() else free))


def _partition(case: Case) -> Iterator[Verdict]:
    name, known = chosen(case), partitions_of(case)
    fix = f"set partition: in the cluster's file to one of {', '.join(sorted(known)) or 'none'}"
    if name not in known:
        found = f"you see no partition {name}" if name else "the site has no default partition"
        yield "problem", found, fix
    elif (state := known[name].get("State", "")) != "UP":
        others = ", ".join(sorted(n for n, r in known.items() if r.get("State") == "UP")) or "none is UP"
        fix = f"`scontrol update PartitionName={name} State=UP` (administrator), or set partition: {others}"
        yield "problem", f"{name} is {state}, so its jobs do not start", fix
    else:
        yield "ok", f"{name} is UP, with {known[name].get('TotalNodes', '?')} nodes"


def _time(case: Case) -> Iterator[Verdict]:
    from jobs.cluster.clusters import time_s

    (row, _), name, time = _site(case), chosen(case), case.slurm.time
    limit, default = row.get("MaxTime", "UNLIMITED"), row.get("DefaultTime", "NONE")
    if row and time is None:
        given = limit if default in ("NONE", "") else default
        yield "ok", f"none in the cluster's file; {name} gives {given}"
    elif time and row and limit != "UNLIMITED" and time_s(time) > time_s(limit):
        fix = f"set time: '{limit}' or less in the cluster's file; runs resume when it is over"
        yield "problem", f"{time!r} is more than {name} allows (MaxTime={limit})", fix
    elif row:
        yield "ok", f"{time!r}, and at most {limit} is allowed"


def _nodes(case: Case) -> Iterator[Verdict]:
    (row, left), name, wanted = _site(case), chosen(case), case.slurm.nodes
    bad = [f"{node.name} ({node.state})" for node in left if not node.is_usable]
    most, each, num_usable = row.get("MaxNodes", ""), f"each run takes {wanted}", len(left) - len(bad)
    fix = "set nodes: {} or fewer in the cluster's file, or choose a larger partition"
    if not row:
        return
    if error := case.here["nodes"].get("error"):
        yield (
            "unknown",
            said_by("sinfo", error),
            "check that `sinfo` works and that `exclude` is a list of nodes",
        )
    elif most.isdigit() and wanted > int(most):
        yield "problem", f"{each}, but {name} gives a job at most {most}", fix.format(most)
    elif len(left) < wanted:
        yield "problem", f"{each}, but {name} has {len(left)}", fix.format(len(left))
    elif num_usable < wanted:
        fix = "`sinfo -R` gives the reason; then `scontrol update NodeName=… State=RESUME` (administrator)"
        yield "problem", f"{each}, but only {num_usable} of {name} are usable: {', '.join(bad)}", fix
    else:
        yield "ok", f"{each}; {num_usable} of {len(left)} in {name} are usable"


def _gpus(case: Case) -> Iterator[Verdict]:
    (row, left), name, wanted = _site(case), chosen(case), case.slurm.num_gpus
    num_enough = sum(node.gpus >= (wanted or 0) for node in left)
    most = max((node.gpus for node in left), default=0)
    asked = f"a run takes {wanted} on each of {case.slurm.nodes} nodes"
    if not row or "error" in case.here["nodes"]:
        return
    if not wanted:
        yield "ok", "the cluster's file asks for none"
    elif num_enough >= case.slurm.nodes:
        yield "ok", f"{num_enough} nodes have {wanted} or more"
    else:
        fix = f"set gpus_per_node: {most} or fewer in the cluster's file, or another partition; if the nodes"
        fix += " do have GPUs, set GresTypes=gpu, Gres=gpu:N of the nodes, and gres.conf (administrator)"
        yield "problem", f"{asked}, but no node of {name} has more than {most}", fix


def _cpus(case: Case) -> Iterator[Verdict]:
    (_, left), cluster = _site(case), case.slurm
    cpus = cluster.tasks_per_node * (cluster.cpus_per_task or 1)
    if left and sum(node.cpus >= cpus for node in left) < cluster.nodes:
        most = max(node.cpus for node in left) // cluster.tasks_per_node
        fix = f"cpus_per_task: {most} or fewer" if most else "fewer ranks on each node"
        found = f"a run takes {cpus} on each node, more than the nodes of {chosen(case)} have"
        yield "problem", found, f"set {fix} in the cluster's file"


def _mem(case: Case) -> Iterator[Verdict]:
    (_, left), cluster = _site(case), case.slurm
    if left and cluster.mem and sum(node.memory_mib >= mib(cluster.mem) for node in left) < cluster.nodes:
        most = max(node.memory_mib for node in left)
        found = f"a run takes {cluster.mem} on each node, the nodes of {chosen(case)} have {most} MiB"
        yield "problem", found, f"set mem: {most}M or less in the cluster's file"


CHECKS = {"partition": _partition, "time": _time, "nodes": _nodes}
MORE = {"GPUs of the nodes": _gpus, "CPUs": _cpus, "mem": _mem}  # a job may start all the same
TOPIC = Topic(CHECKS | MORE, here={"nodes": probe}, blocking=frozenset(CHECKS))
