"""Asks every topic about a cluster, or about this machine, and yields the findings as they come."""

import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from jobs.cluster.clusters import LocalCluster, SlurmCluster, is_slurm
from jobs.cluster.ledger import jobs_folder
from jobs.cluster.slurm_commands import SlurmError
from jobs.cluster.snapshot import snapshot
from jobs.doctor import LOGIN_TOPICS, NODE_TOPICS
from jobs.doctor.finding import Answer, Case, Finding, Request, Topic
from jobs.doctor.nodes import start
from jobs.doctor.partition import num_nodes_to_ask
from jobs.doctor.software import JOBS_FOLDER
from jobs.doctor.storage import shared_folder_probe
from suite.errors import UserError

# What srun says of a job that it would have started, had a node been free.
_BUSY = ("Requested nodes are busy", "Connection timed out", "Immediate execution impossible")
OWN_VIEW = "nodes' own view"


def examine(
    cluster: SlurmCluster | LocalCluster,
    output_dir: Path,
    data: Sequence[str],
    wait_s: int,
    with_nodes: bool,
    shm_mib: int = 0,
    bandwidth: bool = False,
) -> Iterator[Finding]:
    """Yield all findings. Nodes are not asked where Slurm would refuse a job anyway.

    `shm_mib`: what the loaders of an experiment need of a node's shared memory; 0 if that is not known.
    `bandwidth`: whether to load the network and the storage, to see how fast they are.
    Raises UserError for a scheduler that no topic knows.
    """
    is_slurm(cluster)
    case, is_refused = Case(cluster), False
    for topic in login_topics(case):
        for finding in topic.judge(case):
            is_refused |= finding.verdict == "problem" and finding.check in topic.blocking
            yield finding
    if with_nodes and is_refused:
        fix = "solve the problems above, then run the doctor again"
        yield Finding(OWN_VIEW, "unknown", "not checked, because jobs would not start", fix)
    elif with_nodes:
        yield from _node_findings(case, output_dir, data, wait_s, shm_mib, bandwidth)


def login_topics(case: Case) -> Iterator[Topic]:
    """Yield the topics of a Slurm cluster, each once `case` has the answers to its probes.

    Without the controller's answer there are no more.
    """
    for topic in LOGIN_TOPICS if case.cluster.scheduler == "slurm" else ():
        ask_here(topic, case)
        yield topic
        if "error" in case.here["controller"]:
            return


def ask_here(topic: Topic, case: Case) -> None:
    """Add the login machine's answers to `case.here`."""
    for name, probe in topic.here.items():
        try:
            case.here[name] = probe(case)
        except SlurmError as error:
            case.here[name] = {"error": str(error)}


def _node_findings(
    case: Case, output_dir: Path, data: Sequence[str], wait_s: int, shm_mib: int, bandwidth: bool
) -> Iterator[Finding]:
    python = None
    if case.cluster.scheduler == "slurm":
        container = case.cluster.container
        python = case.cluster.python if container is None else container.python
    check, fix, token = "jobs folder", JOBS_FOLDER, secrets.token_hex(4)
    with ExitStack() as stack:
        try:
            sources = snapshot(jobs_folder(output_dir, case.cluster.jobs_folder) / "code")
            check, fix = "output folder", "set --output-dir to a folder that you can write to"
            folder, lock = stack.enter_context(shared_folder_probe(output_dir, token))
        except UserError as error:
            yield Finding(check, "problem", str(error), fix)
            return
        paths = str(output_dir), str(sources), python or sys.executable
        ranks = case.cluster.tasks_per_node
        request = Request(str(folder), token, list(data), *paths, shm_mib, bandwidth, ranks)
        case = ask_nodes(case, request, lock, wait_s)
        yield from judge_nodes(case, wait_s)


def ask_nodes(case: Case, request: Request, lock: Answer, wait_s: int) -> Case:
    """Ask the nodes, and afterwards this machine about what they did; the case with all answers."""
    num_nodes = num_nodes_to_ask(case) if case.cluster.scheduler == "slurm" else 1
    nodes, message = start(case.cluster, num_nodes, request, wait_s)
    case = replace(case, here={**case.here, "lock": lock}, nodes=nodes, request=request, message=message)
    for topic in NODE_TOPICS:
        ask_here(topic, case)
    return case


def judge_nodes(case: Case, wait_s: int) -> Iterator[Finding]:
    """Yield the findings of the nodes' topics, or why no node answered."""
    has_python = any(node.answers.keys() - {"start"} for node in case.nodes)
    for topic in NODE_TOPICS if case.nodes else ():
        if has_python or not topic.on_nodes:
            yield from topic.judge(case)
    if any(sign in case.message for sign in _BUSY) and not case.nodes:
        fix = "try again when nodes are free (`sinfo`), or wait longer: --wait 3600"
        yield Finding(OWN_VIEW, "unknown", f"no node was free in {wait_s} s", fix)
    elif not case.nodes:
        fix = "correct what the message names; if it names nothing, show it to the administrator"
        yield Finding(OWN_VIEW, "problem", f"nothing could be started there: {case.message}", fix)
