"""The whole examination of a cluster, or of this machine."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from jobs.clusters import LocalCluster, SlurmCluster
from jobs.doctor import judge, partition, software
from jobs.doctor.finding import Finding, problem, unknown
from jobs.doctor.meeting import meeting
from jobs.doctor.nodes import Heard, Request, ask_here, ask_slurm, new_token
from jobs.doctor.site import site_findings
from jobs.slurm.commands import SlurmError
from jobs.snapshot import snapshot
from jobs.submissions import jobs_folder
from suite.errors import UserError

WAIT_S = 120
# What Slurm says of a job that it would have started, had there been a node.
_BUSY = ("Requested nodes are busy", "Connection timed out", "Immediate execution impossible")


def examine(
    cluster: SlurmCluster | LocalCluster, output_dir: Path, data: Sequence[str], wait_s: int, with_nodes: bool
) -> Iterator[Finding]:
    """Findings as they come. Nodes are not asked where Slurm would refuse a job anyway."""
    refused = False
    if isinstance(cluster, SlurmCluster):
        for finding in site_findings(cluster):
            refused |= finding.verdict == "problem"
            yield finding
        if with_nodes and refused:
            yield unknown(
                "nodes' own view",
                "not looked at: jobs would not start",
                "mend the problems above, then look again",
            )
            return
    if with_nodes:
        yield from node_findings(cluster, output_dir, data, wait_s)


def node_findings(
    cluster: SlurmCluster | LocalCluster, output_dir: Path, data: Sequence[str], wait_s: int
) -> Iterator[Finding]:
    """What the nodes see, or this machine."""
    try:
        home = jobs_folder(output_dir, cluster.jobs_folder)
        sources = snapshot(home / "code")
    except UserError as error:
        yield problem("jobs folder", str(error), judge.JOBS_FOLDER)
        return
    token = new_token()
    try:
        with meeting(output_dir, token) as place:
            request = Request(place.folder, token, data, sources)
            if isinstance(cluster, SlurmCluster):
                heard = ask_slurm(cluster, _how_many(cluster), request, wait_s)
                python = cluster.python or sys.executable
            else:
                heard, python = ask_here(cluster, request), sys.executable
            if not heard.nodes:
                yield _not_started(heard, wait_s)
                return
            nodes = heard.nodes
            yield from judge.start(nodes, python, str(sources), heard.said)
            if not any("clock" in node.answers for node in nodes):
                return
            yield judge.clocks(nodes)
            if isinstance(cluster, SlurmCluster):
                yield judge.names(nodes)
                yield judge.connection(nodes)
            yield judge.ports(nodes)
            yield from judge.shared_files(nodes, place, str(output_dir))
            yield judge.shm(nodes)
            yield from judge.data(nodes, data)
            yield from software.packages(nodes, python)
            yield from software.gpus(
                nodes, cluster.gpus_per_node if isinstance(cluster, SlurmCluster) else None
            )
            yield from software.decoding(nodes)
            yield from software.together(nodes)
    except UserError as error:
        yield problem("output folder", str(error), "--output-dir with a folder that you can write")


def _how_many(cluster: SlurmCluster) -> int:
    """The nodes of a run, but two where there are two, so that they can be seen to meet."""
    try:
        known, nodes = partition.partitions(), partition.nodes()
        name = partition.chosen(cluster, known) or ""
        free = {node.name for node in nodes.get(name, []) if node.is_usable} - partition.expand(
            cluster.exclude
        )
        most = known[name].get("MaxNodes", "UNLIMITED")
    except (SlurmError, KeyError):
        return cluster.nodes
    limit = min(len(free), int(most)) if most.isdigit() else len(free)
    return max(cluster.nodes, min(2, limit))


def _not_started(heard: Heard, wait_s: int) -> Finding:
    check, said = "nodes' own view", heard.said or f"it ended with {heard.exit_code}"
    if any(sign in said for sign in _BUSY):
        return unknown(
            check,
            f"no node was free in {wait_s} s",
            "look again when nodes are free (`sinfo`), or wait longer: --wait 3600",
        )
    return problem(
        check, f"nothing could be started there: {said}", "what these words name; else show them to the admin"
    )
