"""Starts `jobs.doctor.node` on each node of a job like the cluster's own, and collects the answers."""

import json
import math
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs.cluster import sbatch
from jobs.cluster.clusters import LocalCluster, SlurmCluster, time_s
from jobs.cluster.container import RUNTIMES
from jobs.cluster.inside import Inside, inside_of
from jobs.cluster.shell import shell_words, words_of
from jobs.cluster.slurm_cluster import plain
from jobs.cluster.slurm_commands import words
from jobs.doctor.finding import NodeAnswers, Request
from jobs.doctor.node import MARK
from suite.user import expand_path

JOB_TIME_S = 600  # limit of the job; it takes a minute where nothing hangs
# Options of sbatch that srun does not have, or that would keep the job waiting for something else.
NOT_OF_SRUN = "batch begin dependency export-file get-user-env hold ignore-pbs no-requeue nodes ntasks"
NOT_OF_SRUN += " parsable test-only wait wrap"


def start(
    cluster: SlurmCluster | LocalCluster, num_nodes: int, request: Request, wait_s: int
) -> tuple[list[NodeAnswers], str]:
    """Ask `num_nodes` nodes by srun, and wait at most `wait_s` for them to be free; or ask this machine.

    Returns the answers in the order of the ranks, and what was written to stderr, or the exit code.
    """
    inside = _inside(cluster, request)
    command = program(cluster, request, inside)
    with sbatch.outside_any_job():
        if cluster.scheduler != "slurm":
            return _run(command, JOB_TIME_S)
        started = srun(cluster, num_nodes, request, wait_s)
        if inside is not None and _is_started_by_srun(inside):  # its words are for a shell
            words_inside = [shlex.join(started), *inside.options(cluster), shlex.join(command)]
            started, command = ["bash", "-c", f"exec {' '.join(words_inside)}"], []
        try:
            return _run([*started, *command], wait_s + JOB_TIME_S)
        finally:
            # However srun ended, by an interrupt too, no job stays behind.
            name = f"--name=shiftbench-doctor-{request.token}"
            subprocess.run(["scancel", "--quiet", name], capture_output=True, timeout=60)


def _inside(cluster: SlurmCluster | LocalCluster, request: Request) -> Inside | None:
    """Return the inside of the cluster's container, with all that the nodes look at."""
    if cluster.scheduler != "slurm":
        return None
    data = [expand_path(path, "--data") for path in request.data]
    folders = [Path(request.output_dir), Path(request.folder), *data]
    absolute = [folder.absolute() for folder in folders]
    workdir = absolute[0] if folders == absolute else Path.cwd()
    return inside_of(cluster, (), absolute, workdir, Path(request.snapshot))


def _is_started_by_srun(inside: Inside) -> bool:
    return RUNTIMES[inside.container.runtime].srun_option is not None


def srun(cluster: SlurmCluster, num_nodes: int, request: Request, wait_s: int) -> list[str]:
    """The command for a job like those of the cluster's file, but short and with one task on each node."""
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
    more = plain(cluster.additional_parameters)
    options |= {name: value for name, value in more.items() if name not in NOT_OF_SRUN.split()}
    words_of = [f"--{key}" if value is True else f"--{key}={value}" for key, value in options.items()]
    return ["srun", *words_of]


def program(
    cluster: SlurmCluster | LocalCluster, request: Request, inside: Inside | None = None
) -> list[str]:
    """A shell that sets up as a job does, prints the answer `start`, and becomes the node's program.

    With a runtime that srun starts, all of it runs in the container, where set-up lines do not belong.
    """
    snapshot, needs = Path(request.snapshot), "true"
    python = shell_words(request.python)
    finds_python = f"command -v {shell_words(shlex.quote(words_of(request.python)[0]))}"
    if inside is not None and cluster.scheduler == "slurm":
        runtime, enters = RUNTIMES[inside.container.runtime], list[str]()
        if runtime.program:
            enters, needs = inside.options(cluster), f"command -v {runtime.program}"
        else:
            cluster = cluster.model_copy(update={"setup": ()})
        finds_python = " ".join([*enters, "/bin/sh", "-c", shlex.quote(finds_python)])
        python = " ".join([*enters, inside.python(cluster)])
    lines = [
        *sbatch.set_up(cluster, snapshot),
        f"has_code=false; [ -d {shlex.quote(str(snapshot))} ] && has_code=true",
        f"has_runtime=false; {needs} >/dev/null && has_runtime=true",
        f"has_python=true; ! $has_runtime || {finds_python} >/dev/null || has_python=false",
        'node="${SLURMD_NODENAME:-$(hostname)}"',
        f'echo "{MARK} ${{SLURM_PROCID:-0}} . '
        '[\\"start\\", {\\"node\\": \\"$node\\", \\"host\\": \\"$(hostname)\\", '
        '\\"code\\": $has_code, \\"runtime\\": $has_runtime, \\"python\\": $has_python}]"',
        "$has_code && $has_runtime && $has_python || exit 0",
        f"exec {python} -m jobs.doctor.node {shlex.quote(json.dumps(asdict(request)))}",
    ]
    return ["/bin/bash", "-c", "\n".join(lines)]


def _run(command: list[str], timeout_s: float) -> tuple[list[NodeAnswers], str]:
    """Run it to its end, or terminate it when the time is up."""
    text: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}  # a site may use another one
    with tempfile.TemporaryFile("w+", **text) as errors:
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=errors, **text)
        timer = threading.Timer(timeout_s, process.terminate)
        timer.start()
        try:
            nodes = collect(process.stdout or ())
            code = process.wait()
        finally:
            timer.cancel()
            process.terminate()
            process.wait()
        errors.seek(0)
        return nodes, words(errors.read()[-2000:]) or (f"exit code {code}" if code or not nodes else "")


def collect(lines: Iterable[str]) -> list[NodeAnswers]:
    """Parse the nodes' answers out of stdout. Other lines, such as a site's greeting, are skipped."""
    nodes: dict[int, NodeAnswers] = {}
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
            continue  # cut short: this probe counts as one without an answer
        node = nodes.setdefault(rank, NodeAnswers(f"rank {rank}"))
        node.answers[name] = answer
        if name == "start":
            node.name = answer["node"]
        elif name == "clock" and "time" in answer:
            node.clock_ahead_s = answer["time"] - time.time()
    return [nodes[rank] for rank in sorted(nodes)]
