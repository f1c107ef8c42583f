"""Turns a cluster and its runs into an sbatch script by Submitit, and submits it."""

import math
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.cluster.backend import Cluster, NewJob
from jobs.cluster.private_folder import private_folder
from jobs.cluster.slurm_cluster import SlurmCluster, time_s
from jobs.cluster.slurm_commands import SlurmError, ask, current_job, no_slurm, words
from jobs.cluster.task import TrainTask
from suite.errors import UserError

DISTRIBUTED = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
TASK_PICKLE = "task-{}.pkl"
# Submitit's own requeueing is used only before a task handles signals itself: see TrainTask.checkpoint.
MAX_EARLY_WARNINGS = 3


def submit(job: NewJob, cluster: SlurmCluster) -> str:
    """Submit the runs as one job by a single call of sbatch, and return the job's id.

    Submitit's script and pickles are written before the call, so that the job needs nothing else. Raises
    SlurmError with sbatch's own message; if its kind is `answer_lost`, the job may exist.
    """
    folder = private_folder(job.submission.folder)
    path = folder / "submission.sh"
    text = script(len(job.runs), cluster, job.submission.folder, Path(job.submission.snapshot), job.after)
    path.write_text(text, encoding="utf-8")
    from submitit.core.utils import DelayedSubmission

    for number, (run, name) in enumerate(zip(job.runs, job.submission.folders, strict=True)):
        task = TrainTask(run.model_dump_json(), str((job.output_dir / name).absolute()))
        submission = DelayedSubmission(task)
        submission.set_timeout(_minutes(cluster) or 0, MAX_EARLY_WARNINGS)
        submission.dump(folder / TASK_PICKLE.format(number))
    with outside_any_job():
        answer = ask("sbatch", str(path))
    found = re.search(r"batch job (\d+)", answer)
    if found is None:
        raise SlurmError(f"sbatch printed {words(answer)!r} and no job's id", "answer_lost")
    return found[1]


def script(
    num_runs: int, cluster: SlurmCluster, folder: Path, snapshot: Path, after: str | None = None
) -> str:
    """Return the script that `submit` passes to sbatch.

    `folder`: of the submission's pickles, script and logs; its name is the job's. `snapshot`: the sources
    that the job imports. `after`: the id of a job that must end first.
    """
    try:
        from submitit import SlurmExecutor
    except ImportError:
        raise UserError("submitit is not installed: pip install 'shiftbench[slurm]'") from None
    for path in (folder, snapshot):
        if "%" in str(path) or "\n" in str(path):
            raise UserError(f"{path}: Slurm reads % in a path as a pattern; choose a folder without one")
    try:
        executor = SlurmExecutor(folder, python=shlex.quote(cluster.python or sys.executable))
    except RuntimeError:
        raise no_slurm("srun") from None
    executor.update_parameters(**_parameters(cluster, folder, snapshot, after))
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


def _minutes(cluster: SlurmCluster) -> int | None:
    return None if cluster.time is None else math.ceil(time_s(cluster.time) / 60)


def _parameters(cluster: SlurmCluster, folder: Path, snapshot: Path, after: str | None) -> dict[str, Any]:
    """Return Submitit's parameters; options that it has no name for go into additional_parameters."""
    # srun does not inherit sbatch's --cpus-per-task.
    cpus = [f"--cpus-per-task={cluster.cpus_per_task}"] if cluster.cpus_per_task else []
    more: dict[str, Any] = {"requeue": True, **plain(cluster.additional_parameters)}
    if cluster.mem is not None:
        more["mem"] = cluster.mem
    if after is not None:
        more["dependency"] = ",".join(filter(None, [str(more.get("dependency", "")), f"afterany:{after}"]))
    passed_on = ("partition", "account", "qos", "gpus_per_node", "cpus_per_task", "constraint", "exclude")
    return {
        "job_name": folder.name,
        "time": _minutes(cluster),
        "nodes": cluster.nodes,
        "ntasks_per_node": cluster.tasks_per_node,
        "signal_delay_s": cluster.signal_delay_s,
        "setup": [*set_up(cluster, snapshot), _own_pickle(folder)],
        # A rank that fails ends the others, which would wait for it; a rank that exits cleanly does not.
        "srun_args": ["--kill-on-bad-exit=1", "--wait=0", *cpus],
        "wckey": None,  # Submitit's default is refused where wckeys are tracked
        "additional_parameters": more,
        # Submitit uses the number of tasks if that is less.
        "array_parallelism": cluster.array_parallelism or 1_000_000,
        **{key: value for key in passed_on if (value := getattr(cluster, key)) is not None},
    }


def plain(options: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
    """Return options by the names that sbatch and srun use."""
    return {name.replace("_", "-"): value for name, value in options.items() if value is not False}


def set_up(cluster: Cluster, snapshot: Path) -> list[str]:
    """Return a job's lines of shell: the cluster's variables and set-up, then the path of the snapshot."""
    return [
        *(f"export {name}={shlex.quote(value)}" for name, value in cluster.environment.items()),
        *cluster.setup_lines,
        "export SLURM_EXPORT_ENV=ALL  # srun hands these on, whatever the site's default",
        f"export PYTHONPATH={shlex.quote(str(snapshot))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export PYTHONSAFEPATH=1  # not what lies where the job was submitted",
    ]


def _own_pickle(submission_folder: Path) -> str:
    """Return a line of shell that links this task's pickle to the name that Submitit expects.

    A link that exists is kept: after an early warning Submitit has written a pickle that counts them.
    """
    folder = shlex.quote(str(submission_folder))
    job = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
    name, pickle = f'{folder}/"{job}_submitted.pkl"', TASK_PICKLE.format("${SLURM_ARRAY_TASK_ID:-0}")
    return f'[ -e {name} ] || ln -s "{pickle}" {name}'
