"""A cluster and its runs to an sbatch script, by Submitit."""

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

from jobs.cluster.clusters import LocalCluster, SlurmCluster, time_s
from jobs.cluster.private_folder import private_folder
from jobs.cluster.slurm_commands import SlurmError, ask, no_slurm, words
from jobs.cluster.task import TrainTask
from suite.errors import UserError

if TYPE_CHECKING:
    from submitit import SlurmExecutor

DISTRIBUTED = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
TASK_PICKLE = "task-{}.pkl"
# Submitit's own requeueing serves only until a task hears its signals: see TrainTask.checkpoint.
MAX_EARLY_WARNINGS = 3
# What sbatch says when the answer was lost: the job may exist all the same.
_NO_ANSWER = ("did not answer", "Socket timed out", "Zero Bytes were transmitted", "Transport endpoint")


@dataclass(frozen=True)
class Target:
    """Where a submission's files lie."""

    name: str
    jobs_folder: Path
    snapshot: Path

    @property
    def folder(self) -> Path:
        """Of this submission's pickles, script and logs."""
        return self.jobs_folder / self.name


class NoAnswer(SlurmError):
    """Slurm's answer was lost: nobody knows yet whether the job exists."""


def submit(tasks: Sequence[TrainTask], cluster: SlurmCluster, target: Target, after: str | None) -> str:
    """One call of sbatch; the job's id. `after`: begin when this job has ended.

    Script and pickles are Submitit's, and all written before: once sbatch is called the job needs nothing
    more of us. Raises NoAnswer, or SlurmError with sbatch's own words, in which case no job exists.
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
    try:
        with outside_any_job():
            said = ask("sbatch", str(path))
    except SlurmError as error:
        if any(sign in str(error) for sign in _NO_ANSWER):
            raise NoAnswer(str(error)) from None
        raise
    found = re.search(r"batch job (\d+)", said)
    if found is None:
        raise NoAnswer(f"sbatch said {words(said)!r}")
    return found[1]


def script(num_runs: int, cluster: SlurmCluster, target: Target, after: str | None = None) -> str:
    """The very script that `submit` hands to sbatch."""
    executor = _executor(cluster, target, after)
    if num_runs > 1:
        executor.parameters["map_count"] = num_runs
    return executor._make_submission_file_text(executor._submitit_command_str, "")


@contextmanager
def outside_any_job() -> Iterator[None]:
    """Without the variables of a job or a group of ranks that we are in, which sbatch would hand on, and
    without sbatch's own, which would overrule the cluster's file.
    """
    hidden = set(DISTRIBUTED) | {name for name in os.environ if name.startswith("SBATCH_")}
    if "SLURM_JOB_ID" in os.environ:
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
            raise UserError(f"{path}: Slurm reads % in a path as a pattern; choose a folder without")
    try:
        python = cluster.python or sys.executable
        executor = SlurmExecutor(target.folder, python=shlex.quote(python))
    except RuntimeError:
        raise no_slurm("srun") from None
    executor.update_parameters(**_parameters(cluster, target, after))
    return executor


def _parameters(cluster: SlurmCluster, target: Target, after: str | None) -> dict[str, Any]:
    """Submitit's parameters. What it has no name for goes by additional_parameters."""
    # A rank that dies ends the others, who would wait for it; one that writes a checkpoint has time for it.
    srun_args = ["--kill-on-bad-exit=1", "--wait=0"]
    if cluster.cpus_per_task:
        srun_args.append(f"--cpus-per-task={cluster.cpus_per_task}")  # srun no longer takes sbatch's
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
        "wckey": None,  # Submitit's own would be refused where keys are tracked
        "additional_parameters": more,
    }
    for key in ("partition", "account", "qos", "gpus_per_node", "cpus_per_task", "constraint", "exclude"):
        if (value := getattr(cluster, key)) is not None:
            parameters[key] = value
    if cluster.array_parallelism is not None:
        parameters["array_parallelism"] = cluster.array_parallelism
    else:
        parameters["array_parallelism"] = 1_000_000  # Submitit takes the number of tasks if that is less
    return parameters


def plain(options: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
    """Options by the names that sbatch and srun have for them."""
    return {name.replace("_", "-"): value for name, value in options.items() if value is not False}


def set_up(cluster: SlurmCluster | LocalCluster, target: Target) -> list[str]:
    """The cluster's variables and lines, and then, whatever those did, the snapshot as what jobs import."""
    return [
        *(f"export {name}={shlex.quote(value)}" for name, value in cluster.environment.items()),
        *(cluster.setup if isinstance(cluster, SlurmCluster) else ()),
        "export SLURM_EXPORT_ENV=ALL  # srun hands these on, whatever the site's default",
        f"export PYTHONPATH={shlex.quote(str(target.snapshot))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export PYTHONSAFEPATH=1  # not what lies where the job was submitted",
    ]


def _own_pickle(target: Target) -> str:
    """Give this task's pickle the name by which Submitit looks for it: one with the job's id.

    Once: after an early warning Submitit has put one there that counts them.
    """
    folder = shlex.quote(str(target.folder))
    job = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
    name, pickle = f'{folder}/"{job}_submitted.pkl"', TASK_PICKLE.format("${SLURM_ARRAY_TASK_ID:-0}")
    return f'[ -e {name} ] || ln -s "{pickle}" {name}'


def task_for(run_json: str, folder: Path) -> TrainTask:
    """What a job does for a run."""
    return TrainTask(run_json, os.fspath(folder.absolute()))
