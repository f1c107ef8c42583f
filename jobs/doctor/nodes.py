"""Has each node of a job run `jobs.doctor.node` as the cluster's file says, and hears the answers."""

import json
import math
import secrets
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.cluster import sbatch
from jobs.cluster.clusters import LocalCluster, SlurmCluster, time_s
from jobs.cluster.slurm_commands import words
from jobs.doctor.node import MARK

JOB_TIME_S = 600  # of the job; it takes a minute where nothing hangs
# Options of sbatch that srun does not know, or that would keep a job waiting for something else.
NOT_OF_SRUN = frozenset(
    [
        *("batch", "begin", "dependency", "export-file", "get-user-env", "hold", "ignore-pbs"),
        *("no-requeue", "nodes", "ntasks", "parsable", "test-only", "wait", "wrap"),
    ]
)


@dataclass
class Node:
    """What one node said, by probe, and when its `clock` arrived here."""

    name: str
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    clock_ahead_s: float | None = None


@dataclass(frozen=True)
class Heard:
    """All nodes' answers, in the order of their ranks, and what the command that started them said."""

    nodes: list[Node]
    exit_code: int
    said: str


@dataclass(frozen=True)
class Request:
    """What the nodes are to look at, and the sources that they do it with."""

    folder: Path
    token: str
    data: Sequence[str]
    snapshot: Path


def new_token() -> str:
    """Names the doctor's job and folder."""
    return secrets.token_hex(4)


def ask_slurm(cluster: SlurmCluster, num_nodes: int, request: Request, wait_s: int) -> Heard:
    """By srun, on so many nodes; at most `wait_s` for them to be free."""
    with sbatch.outside_any_job():
        try:
            return _hear(
                [*srun(cluster, num_nodes, request, wait_s), *program(cluster, request)], wait_s + JOB_TIME_S
            )
        finally:
            # Nothing is left behind, whatever ended srun: an interrupt too.
            subprocess.run(
                ["scancel", "--quiet", f"--name=shiftbench-doctor-{request.token}"],
                capture_output=True,
                timeout=60,
            )


def ask_here(cluster: LocalCluster, request: Request) -> Heard:
    """On this machine."""
    with sbatch.outside_any_job():
        return _hear(program(cluster, request), JOB_TIME_S)


def srun(cluster: SlurmCluster, num_nodes: int, request: Request, wait_s: int) -> list[str]:
    """The command for a job like those of the cluster's file, but of one task a node, and short."""
    options: dict[str, str | int | bool] = {
        "job-name": f"shiftbench-doctor-{request.token}",
        "nodes": num_nodes,
        "ntasks": num_nodes,
        "ntasks-per-node": 1,
        "time": math.ceil(min(JOB_TIME_S, time_s(cluster.time) if cluster.time else JOB_TIME_S) / 60),
        "immediate": wait_s,
        "input": "none",
    }
    for key in ("partition", "account", "qos", "gpus_per_node", "mem", "constraint", "exclude"):
        if (value := getattr(cluster, key)) is not None:
            options[key.replace("_", "-")] = value
    if cluster.cpus_per_task:
        options["cpus-per-task"] = cluster.cpus_per_task * cluster.tasks_per_node
    more = sbatch.plain(cluster.additional_parameters)
    options |= {name: value for name, value in more.items() if name not in NOT_OF_SRUN}
    return [
        "srun",
        *(f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()),
    ]


def python_of(cluster: SlurmCluster | LocalCluster) -> str:
    """The interpreter of the cluster's jobs."""
    wanted = cluster.python if isinstance(cluster, SlurmCluster) else None
    return wanted or sys.executable


def program(cluster: SlurmCluster | LocalCluster, request: Request) -> list[str]:
    """A shell that sets up as a job's script does, says what it has, and becomes the node's program."""
    python = python_of(cluster)
    target = sbatch.Target("", request.snapshot.parent, request.snapshot)
    content = {"folder": str(request.folder), "token": request.token, "data": list(request.data)}
    lines = [
        *sbatch.set_up(cluster, target),
        f"has_code=false; [ -d {shlex.quote(str(request.snapshot))} ] && has_code=true",
        f"has_python=false; command -v {shlex.quote(python)} >/dev/null && has_python=true",
        'node="${SLURMD_NODENAME:-$(hostname)}"',
        f'echo "{MARK} ${{SLURM_PROCID:-0}} . '
        '[\\"start\\", {\\"node\\": \\"$node\\", \\"host\\": \\"$(hostname)\\", '
        '\\"code\\": $has_code, \\"python\\": $has_python}]"',
        "$has_code && $has_python || exit 0",
        f"exec {shlex.quote(python)} -m jobs.doctor.node {shlex.quote(json.dumps(content))}",
    ]
    return ["bash", "-c", "\n".join(lines)]


def _hear(command: Sequence[str], timeout_s: float) -> Heard:
    """Run it to its end, or to that of our patience."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        assert process.stdout is not None
        timer = threading.Timer(timeout_s, process.terminate)
        timer.start()
        try:
            nodes = collect(process.stdout)
            code = process.wait()
        finally:
            timer.cancel()
            process.terminate()
            process.wait()
        errors.seek(0)
        return Heard(nodes, code, words(errors.read()[-2000:]))


def collect(lines: Iterable[str]) -> list[Node]:
    """The nodes' answers out of what came on stdout, which a site's own words may be between."""
    nodes: dict[int, Node] = {}
    pieces: dict[int, str] = {}
    for line in lines:
        mark, _, rest = line.rstrip("\n").partition(" ")
        parts = rest.split(" ", 2)
        if mark != MARK or len(parts) != 3 or not parts[0].isdigit():
            continue
        rank, text = int(parts[0]), pieces.pop(int(parts[0]), "") + parts[2]
        if parts[1] == "+":
            pieces[rank] = text
            continue
        try:
            name, answer = json.loads(text)
        except ValueError:
            continue  # cut short: the probe counts as one that did not answer
        node = nodes.setdefault(rank, Node(f"rank {rank}"))
        node.answers[name] = answer
        if name == "start":
            node.name = answer["node"]
        elif name == "clock" and "time" in answer:
            node.clock_ahead_s = answer["time"] - time.time()
    return [nodes[rank] for rank in sorted(nodes)]
