"""The script that Submitit makes of a Slurm cluster, and that sbatch takes."""

import math
import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.cluster.backend import Cluster
from jobs.cluster.inside import Inside
from jobs.cluster.shell import shell_words
from jobs.cluster.slurm_cluster import SlurmCluster, plain, time_s
from jobs.cluster.slurm_commands import TIMEOUT_S, SlurmError, as_text, current_job, no_slurm, words
from suite.binding import VARIABLE as BINDING_VARIABLE
from suite.errors import UserError
from suite.signals import GRACE_VARIABLE, REQUEUE_VARIABLE

_REQUEUE = f"""
code=$?

# A task without Slurm's commands leaves it to this script whether its job makes room for another one.
if [ -s "${REQUEUE_VARIABLE}" ]; then
    shown=$(scontrol --oneliner show job "$job")
    preempted=${{shown#* PreemptTime=}} started=${{shown#* StartTime=}}
    # ISO 8601 orders as text.
    [[ $shown == *" JobState=RUNNING "* && $preempted == [0-9]* &&
        ! ${{preempted%% *}} < ${{started%% *}} ]] || rm -f "${REQUEUE_VARIABLE}"
fi

# The task's own requests to be requeued failed: the controller may be away for longer than its grace time,
# and in a container there is no scontrol.
for attempt in {{1..120}}; do
    [ -e "${REQUEUE_VARIABLE}" ] || break
    scontrol requeue "$job" && rm -f "${REQUEUE_VARIABLE}"
    sleep 5
done
exit $code
"""
SETUP_FAILED = "shiftbench: setup failed"
# In a function, such as `module`, the line that called it counts. A line that exits, such as `source` of a
# file that is missing, raises no ERR.
_NAMES_WHAT_FAILED = (
    "shiftbench_at= shiftbench_is_set_up=  # also for a line of set-up that is `set -u`",
    "shiftbench_ends() {",
    '    code=$?; [ -z "$shiftbench_is_set_up" ] || return',
    "    n=$((shiftbench_at - shiftbench_first))",
    "    line=${shiftbench_at:+${shiftbench_setup[n < 0 ? 9999 : n]:-}}",
    f'    echo "{SETUP_FAILED} with exit code $code: ${{line:-$BASH_COMMAND}}" >&2',
    "}",
    "set -eE",
    "trap 'shiftbench_at=$LINENO; for n in ${BASH_LINENO[@]}; do ((n == 0)) || shiftbench_at=$n; done' ERR",
    "trap shiftbench_ends EXIT",
)
DISTRIBUTED = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
TASK_PICKLE = "task-{}.pkl"


def script(
    num_runs: int,
    cluster: SlurmCluster,
    folder: Path,
    snapshot: Path,
    after: Sequence[str] = (),
    inside: Inside | None = None,
) -> str:
    """Return the script for sbatch.

    `folder`: for the job's pickles and logs; its name is the job's. `snapshot`: the sources that the job
    imports. `after`: the ids of jobs that must end first. `inside`: the container that the tasks run in.
    """
    for path in (folder, snapshot):
        if "%" in str(path) or "\n" in str(path):
            raise UserError(f"{path}: Slurm reads % in a path as a pattern; choose a folder without one")
    try:
        from submitit import SlurmExecutor

        executor = SlurmExecutor(folder)
    except ImportError:
        raise UserError("submitit is not installed: pip install 'shiftbench[slurm]'") from None
    except RuntimeError:
        raise no_slurm("srun") from None
    executor.update_parameters(**_parameters(cluster, folder, snapshot, after))
    if num_runs > 1:
        executor.parameters["map_count"] = num_runs
    if inside is None:
        python = shell_words(cluster.python)
        command = f"{python} -u -m jobs.cluster.start_task {shlex.quote(str(folder))}"
    else:
        command = inside.command(cluster, "jobs.cluster.in_image", str(folder))
    return executor._make_submission_file_text(command, "") + _REQUEUE


@contextmanager
def outside_any_job() -> Iterator[None]:
    """Hide the variables of the job or ranks around this process, and sbatch's, which overrule the file."""
    hidden = set(DISTRIBUTED) | {name for name in os.environ if name.startswith("SBATCH_")}
    if current_job() is not None:
        hidden |= {name for name in os.environ if name.startswith(("SLURM_", "SRUN_"))} - {"SLURM_CONF"}
    former = {name: os.environ.pop(name) for name in hidden & os.environ.keys()}
    try:
        yield
    finally:
        os.environ.update(former)


def minutes(cluster: SlurmCluster) -> int | None:
    """Return the time limit as Submitit takes it."""
    return None if cluster.time is None else math.ceil(time_s(cluster.time) / 60)


def _parameters(cluster: SlurmCluster, folder: Path, snapshot: Path, after: Sequence[str]) -> dict[str, Any]:
    """Return Submitit's parameters; options that it has no name for go into additional_parameters."""
    # srun does not inherit sbatch's --cpus-per-task.
    more_of_srun = [f"--cpus-per-task={cluster.cpus_per_task}"] if cluster.cpus_per_task else []
    if cluster.has_gpus and cluster.variables.get(BINDING_VARIABLE) == "closest":
        # Each rank binds itself, to CPUs that Slurm deals out by turns.
        more_of_srun.append("--cpu-bind=none")
    more: dict[str, Any] = {"requeue": True, **plain(cluster.additional_parameters)}
    if cluster.mem is not None:
        more["mem"] = cluster.mem
    if after:
        own = f"afterany:{':'.join(after)}"
        more["dependency"] = ",".join(filter(None, [str(more.get("dependency", "")), own]))
    passed_on = ("partition", "account", "qos", "gpus_per_node", "cpus_per_task", "constraint", "exclude")
    return {
        "job_name": folder.name,
        "time": minutes(cluster),
        "nodes": cluster.nodes,
        "ntasks_per_node": cluster.tasks_per_node,
        "signal_delay_s": cluster.signal_delay_s,
        "setup": [*set_up(cluster, snapshot), *_own_files(cluster, folder)],
        # A rank that fails ends the others, which would wait for it; a rank that exits cleanly does not.
        "srun_args": ["--kill-on-bad-exit=1", "--wait=0", *more_of_srun],
        "wckey": None,  # Submitit's default is refused where wckeys are tracked
        "additional_parameters": more,
        # Submitit uses the number of tasks if that is less.
        "array_parallelism": cluster.array_parallelism or 1_000_000,
        **{key: value for key in passed_on if (value := getattr(cluster, key)) is not None},
    }


def set_up(cluster: Cluster, snapshot: Path) -> list[str]:
    """Return a job's lines of shell: the cluster's variables and set-up, then the path of the snapshot."""
    return [
        *(f"export {name}={shlex.quote(value)}" for name, value in cluster.variables.items()),
        *(_checked(cluster.setup) if isinstance(cluster, SlurmCluster) and cluster.setup else ()),
        "export SLURM_EXPORT_ENV=ALL  # srun hands these on, whatever the site's default",
        f"export PYTHONPATH={shlex.quote(str(snapshot))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export PYTHONSAFEPATH=1  # not what lies where the job was submitted",
    ]


def _checked(lines: Sequence[str]) -> list[str]:
    """Return lines of shell of which the first that fails ends the job, with a sentence that names it."""
    return [
        f"shiftbench_setup=({' '.join(shlex.quote(line.strip()) for line in lines)})",
        *_NAMES_WHAT_FAILED,
        "shiftbench_first=$((LINENO + 1))",
        *lines,
        "set +eE; trap - ERR; shiftbench_is_set_up=yes",
    ]


def _own_files(cluster: SlurmCluster, submission_folder: Path) -> list[str]:
    """Return lines of shell that give this task its pickle, by the name that Submitit expects, and paths."""
    folder, pickle = shlex.quote(str(submission_folder)), TASK_PICKLE.format("${SLURM_ARRAY_TASK_ID:-0}")
    return [
        'job="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"',
        # An existing one is kept: after an early warning Submitit has written a pickle that counts them.
        f'[ -e {folder}/"${{job}}_submitted.pkl" ] || ln -s "{pickle}" {folder}/"${{job}}_submitted.pkl"',
        f"export {GRACE_VARIABLE}={cluster.signal_delay_s}",
        f'export {REQUEUE_VARIABLE}={folder}/"${{job}}_to_requeue"',
        f'rm -f "${REQUEUE_VARIABLE}"',
    ]


def try_out(cluster: SlurmCluster) -> tuple[int, str]:
    """Ask Slurm whether it would take a job of this cluster; none is created.

    Returns sbatch's exit code, and what it said. Raises SlurmError without an answer.
    """
    folder = Path("/nonexistent")
    inside = None if cluster.container is None else Inside(cluster.container, folder, folder)
    text = script(1, cluster, folder / "shiftbench-try", folder, inside=inside)
    command = ["sbatch", "--test-only"]
    try:
        with outside_any_job():
            done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"sbatch did not answer: {error}") from None
    return done.returncode, words(as_text(done.stderr or done.stdout))
