"""The whole examination of a cluster, or of this machine."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from jobs.cluster.clusters import LocalCluster, SlurmCluster
from jobs.cluster.ledger import jobs_folder
from jobs.cluster.slurm_commands import SlurmError
from jobs.cluster.snapshot import snapshot
from jobs.doctor import belongings, network, partition, software
from jobs.doctor.finding import Finding, problem, unknown
from jobs.doctor.meeting import Meeting, meeting
from jobs.doctor.nodes import Heard, Request, ask_here, ask_slurm, new_token, python_of
from jobs.doctor.site import site_findings
from suite.errors import UserError

# A problem of one of these keeps a job from starting, so that waiting for it makes no sense.
BLOCKING = frozenset(["commands", "controller", "partition", "time", "nodes", "sbatch --test-only"])
# What Slurm says of a job that it would have started, had there been a node.
_BUSY = ("Requested nodes are busy", "Connection timed out", "Immediate execution impossible")


def examine(
    cluster: SlurmCluster | LocalCluster, output_dir: Path, data: Sequence[str], wait_s: int, with_nodes: bool
) -> Iterator[Finding]:
    """Findings as they come. Nodes are not asked where Slurm would refuse a job anyway."""
    refused = False
    if isinstance(cluster, SlurmCluster):
        for finding in site_findings(cluster):
            refused |= finding.verdict == "problem" and finding.check in BLOCKING
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
        yield problem("jobs folder", str(error), belongings.JOBS_FOLDER)
        return
    token = new_token()
    with ExitStack() as stack:
        try:
            place = stack.enter_context(meeting(output_dir, token))
        except UserError as error:
            yield problem("output folder", str(error), "--output-dir with a folder that you can write")
            return
        request = Request(place.folder, token, data, sources)
        if isinstance(cluster, SlurmCluster):
            heard = ask_slurm(cluster, _how_many(cluster), request, wait_s)
        else:
            heard = ask_here(cluster, request)
        if heard.nodes:
            yield from _judge(heard, cluster, place, str(output_dir), request)
        else:
            yield _not_started(heard, wait_s)


def _judge(
    heard: Heard, cluster: SlurmCluster | LocalCluster, place: Meeting, output_dir: str, request: Request
) -> Iterator[Finding]:
    nodes, python = heard.nodes, python_of(cluster)
    yield from belongings.start(nodes, python, str(request.snapshot), heard.said)
    if not any("clock" in node.answers for node in nodes):
        return
    yield network.clocks(nodes)
    if isinstance(cluster, SlurmCluster):
        yield network.names(nodes)
        yield network.connection(nodes)
    yield network.ports(nodes)
    yield from belongings.shared_files(nodes, place, output_dir)
    yield belongings.shm(nodes)
    yield from belongings.data(nodes, request.data)
    yield from software.packages(nodes, python)
    yield from software.gpus(nodes, cluster.gpus_per_node if isinstance(cluster, SlurmCluster) else None)
    yield from software.decoding(nodes)
    yield from network.together(nodes)


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
