"""Asks every topic about a cluster, or about this machine, and yields the findings as they come."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from jobs.cluster.clusters import LocalCluster, SlurmCluster, is_slurm
from jobs.cluster.ledger import jobs_folder
from jobs.cluster.slurm_commands import SlurmError
from jobs.cluster.snapshot import snapshot
from jobs.doctor import TOPICS
from jobs.doctor.finding import Answer, Case, Finding, Request, Topic, error_of, problem, unknown
from jobs.doctor.nodes import Replies, ask_slurm, ask_this_machine, new_token
from jobs.doctor.partition import num_nodes_to_ask
from jobs.doctor.software import JOBS_FOLDER
from jobs.doctor.storage import shared_folder_probe
from suite.errors import UserError

# What srun says of a job that it would have started, had a node been free.
_BUSY = ("Requested nodes are busy", "Connection timed out", "Immediate execution impossible")


def examine(
    cluster: SlurmCluster | LocalCluster, output_dir: Path, data: Sequence[str], wait_s: int, with_nodes: bool
) -> Iterator[Finding]:
    """Yields all findings. Nodes are not asked where Slurm would refuse a job anyway."""
    case, is_refused = Case(cluster), False
    if is_slurm(cluster):
        for topic in login_topics(case):
            for finding in topic.judge(case):
                is_refused |= finding.verdict == "problem" and finding.check in topic.blocking
                yield finding
    if with_nodes and is_refused:
        yield unknown(
            "nodes' own view",
            "not checked, because jobs would not start",
            "solve the problems above, then run the doctor again",
        )
    elif with_nodes:
        yield from _node_findings(case, output_dir, data, wait_s)


def login_topics(case: Case) -> Iterator[Topic]:
    """Yields the topics of the login machine, each once `case` has the answers to its probes."""
    for topic in TOPICS:
        if topic.where == "login":
            ask_here(topic, case)
            yield topic
            if topic.is_required and any(error_of(case.here[name]) for name in topic.here):
                return


def ask_here(topic: Topic, case: Case) -> None:
    """Adds the login machine's answers to `case.here`."""
    for name, probe in topic.here.items():
        try:
            case.here[name] = probe(case)
        except SlurmError as error:
            case.here[name] = {"error": str(error)}


def _node_findings(case: Case, output_dir: Path, data: Sequence[str], wait_s: int) -> Iterator[Finding]:
    try:
        sources = snapshot(jobs_folder(output_dir, case.cluster.jobs_folder) / "code")
    except UserError as error:
        yield problem("jobs folder", str(error), JOBS_FOLDER)
        return
    token = new_token()
    with ExitStack() as stack:
        try:
            folder, lock = stack.enter_context(shared_folder_probe(output_dir, token))
        except UserError as error:
            yield problem("output folder", str(error), "set --output-dir to a folder that you can write to")
            return
        python = case.cluster.python if case.cluster.scheduler == "slurm" else None
        request = Request(
            str(folder), token, list(data), str(output_dir), str(sources), python or sys.executable
        )
        yield from judge_nodes(*ask_nodes(case, request, lock, wait_s), wait_s)


def ask_nodes(case: Case, request: Request, lock: Answer, wait_s: int) -> tuple[Case, Replies]:
    """Asks the nodes, and afterwards this machine about what they did; the case with all answers."""
    if case.cluster.scheduler == "slurm":
        replies = ask_slurm(case.slurm, num_nodes_to_ask(case), request, wait_s)
    else:
        replies = ask_this_machine(case.cluster, request)
    here = {**case.here, "lock": lock}
    case = replace(case, here=here, nodes=replies.nodes, request=request, message=replies.message)
    for topic in TOPICS:
        if topic.where == "nodes":
            ask_here(topic, case)
    return case, replies


def judge_nodes(case: Case, replies: Replies, wait_s: int) -> Iterator[Finding]:
    """Yields the findings of the nodes' topics, or why no node answered."""
    if not case.nodes:
        yield _not_started(replies, wait_s)
        return
    has_python = any(node.answers.keys() - {"start"} for node in case.nodes)
    for topic in TOPICS:
        if topic.where == "nodes" and (has_python or not topic.on_nodes):
            yield from topic.judge(case)


def _not_started(replies: Replies, wait_s: int) -> Finding:
    check, message = "nodes' own view", replies.message or f"exit code {replies.exit_code}"
    if any(sign in message for sign in _BUSY):
        return unknown(
            check,
            f"no node was free in {wait_s} s",
            "try again when nodes are free (`sinfo`), or wait longer: --wait 3600",
        )
    return problem(
        check,
        f"nothing could be started there: {message}",
        "correct what the message names; if it names nothing, show it to the administrator",
    )
