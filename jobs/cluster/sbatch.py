"""Turns a cluster and its runs into an sbatch script by Submitit, and submits it."""

import math
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.cluster.backend import Cluster
from jobs.cluster.private_folder import private_folder
from jobs.cluster.slurm_cluster import SlurmCluster, time_s
from jobs.cluster.slurm_commands import SlurmError, ask, current_job, no_slurm, words
from jobs.cluster.task import TrainTask
from suite.errors import UserError

if TYPE_CHECKING:
    from submitit import SlurmExecutor

DISTRIBUTED = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
TASK_PICKLE = "task-{}.pkl"
# Submitit's own requeueing is used only before a task handles signals itself: see TrainTask.checkpoint.
MAX_EARLY_WARNINGS = 3


@dataclass(frozen=True)
class Target:
    """Where a submission's files are."""

    name: str
    jobs_folder: Path
    snapshot: Path

    @property
    def folder(self) -> Path:
        """The folder of this submission's pickles, script and logs."""
        return self.jobs_folder / self.name


def submit(tasks: Sequence[TrainTask], cluster: SlurmCluster, target: Target, after: str | None) -> str:
    """Submit the tasks as one job by a single call of sbatch, and return the job's id.

    `after`: the id of a job that must end first. Submitit's script and pickles are written before the call,
    so that the job needs nothing else. Raises SlurmError with sbatch's own message; if its kind is
    `answer_lost`, the job may exist.
    """
    from submitit.core.utils import DelayedSubmission

    private_folder(target.folder)
    path = target.folder / "submission.sh"
    path.write_text(script(len(tasks), cluster, target, after), encoding="utf-8")
    minutes = 0 if cluster.time is None else math.ceil(time_s(cluster.time) / 60)
    for number, task in enumerate(tasks):
        submission = DelayedSubmission(task)
        submission.set_timeout(minutes, MAX_EARLY_WARNINGS)
        submission.dump(target.folder / TASK_PICKLE.format(number))
    with outside_any_job():
        answer = ask("sbatch", str(path))
    found = re.search(r"batch job (\d+)", answer)
    if found is None:
        raise SlurmError(f"sbatch printed {words(answer)!r} and no job's id", "answer_lost")
    return found[1]


def script(num_runs: int, cluster: SlurmCluster, target: Target, after: str | None = None) -> str:
    """Return the script that `submit` passes to sbatch."""
    executor = _executor(cluster, target, after)
    if num_runs > 1:
        executor.parameters["map_count"] = num_runs
    return executor._make_submission_file_text(executor._submitit_command_str, "")


@contextmanager
def outside_any_job() -> Iterator[None]:
    """Hide the variables of the job or group of ranks around this process, which sbatch would pass on, and
    sbatch's own variables, which would overrule the cluster's file.
    """
    hidden = set(DISTRIBUTED) | {name for name in os.environ if name.startswith("SBATCH_")}
    if current_job() is not None:
        hidden |= {name for name in os.environ if name.startswith(("SLURM_", "SRUN_"))} - {"SLURM_CONF"}
    former = {name: os.environ.pop(name) for name in hidden & os.environ.keys()}
    try:
        yield
    finally:
        os.environ.update(former)


def _executor(cluster: SlurmCluster, target: Target, after: str | None) -> "SlurmExecutor":
    try:
        from submitit import SlurmExecutor
    except ImportError:
        raise UserError("submitit is not installed: pip install 'shiftbench[slurm]'") from None
    for path in (target.folder, target.snapshot):
        if "%" in str(path) or "\n" in str(path):
            raise UserError(f"{path}: Slurm reads % in a path as a pattern; choose a folder without one")
    try:
        python = cluster.python or sys.executable
        executor = SlurmExecutor(target.folder, python=shlex.quote(python))
    except RuntimeError:
        raise no_slurm("srun") from None
    executor.update_parameters(**_parameters(cluster, target, after))
    return executor


def _parameters(cluster: SlurmCluster, target: Target, after: str | None) -> dict[str, Any]:
    """Return Submitit's parameters; options that it has no name for go into additional_parameters."""
    # A rank that fails ends the others, which would wait for it; a rank that exits cleanly does not.
    srun_args = ["--kill-on-bad-exit=1", "--wait=0"]
    if cluster.cpus_per_task:
        srun_args.append(f"--cpus-per-task={cluster.cpus_per_task}")  # srun does not inherit sbatch's
    more: dict[str, Any] = {"requeue": True, **plain(cluster.additional_parameters)}
    if cluster.mem is not None:
        more["mem"] = cluster.mem
    if after is not None:
        more["dependency"] = ",".join(filter(None, [str(more.get("dependency", "")), f"afterany:{after}"]))
    parameters: dict[str, Any] = {
        "job_name": target.name,
        "time": None if cluster.time is None else math.ceil(time_s(cluster.time) / 60),
        "nodes": cluster.nodes,
        "ntasks_per_node": cluster.tasks_per_node,
        "signal_delay_s": cluster.signal_delay_s,
        "setup": [*set_up(cluster, target), _own_pickle(target)],
        "srun_args": srun_args,
        "wckey": None,  # Submitit's default is refused where wckeys are tracked
        "additional_parameters": more,
    }
    for key in ("partition", "account", "qos", "gpus_per_node", "cpus_per_task", "constraint", "exclude"):
        if (value := getattr(cluster, key)) is not None:
            parameters[key] = value
    if cluster.array_parallelism is not None:
        parameters["array_parallelism"] = cluster.array_parallelism
    else:
        parameters["array_parallelism"] = 1_000_000  # Submitit uses the number of tasks if that is less
    return parameters


def plain(options: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
    """Return options by the names that sbatch and srun use."""
    return {name.replace("_", "-"): value for name, value in options.items() if value is not False}


def set_up(cluster: Cluster, target: Target) -> list[str]:
    """Return a job's lines of shell: the cluster's variables and set-up, then the path of the snapshot."""
    return [
        *(f"export {name}={shlex.quote(value)}" for name, value in cluster.environment.items()),
        *cluster.setup_lines,
        "export SLURM_EXPORT_ENV=ALL  # srun hands these on, whatever the site's default",
        f"export PYTHONPATH={shlex.quote(str(target.snapshot))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export PYTHONSAFEPATH=1  # not what lies where the job was submitted",
    ]


def _own_pickle(target: Target) -> str:
    """Return a line of shell that links this task's pickle to the name that Submitit expects.

    A link that exists is kept: after an early warning Submitit has written a pickle that counts them.
    """
    folder = shlex.quote(str(target.folder))
    job = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
    name, pickle = f'{folder}/"{job}_submitted.pkl"', TASK_PICKLE.format("${SLURM_ARRAY_TASK_ID:-0}")
    return f'[ -e {name} ] || ln -s "{pickle}" {name}'


def task_for(run_json: str, folder: Path) -> TrainTask:
    """Return the task that trains a run in `folder`."""
    return TrainTask(run_json, os.fspath(folder.absolute()))
