"""The YAML of a Slurm cluster, in sbatch's words, and the script that Submitit makes of it."""

import math
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from jobs.cluster.backend import Cluster, Text
from jobs.cluster.slurm_commands import current_job, no_slurm
from jobs.cluster.snapshot import SNAPSHOT_VARIABLE
from suite.errors import UserError
from suite.wording import shown

# shiftbench sets these itself: they decide where a job's files lie and how it is stopped and restarted.
OWN_PARAMETERS = ("array", "error", "job-name", "open-mode", "output", "requeue", "signal")
# With these sbatch creates no job, does not print its id, or creates it where shiftbench does not look.
UNUSABLE_PARAMETERS = frozenset(
    ["cluster-constraint", "clusters", "help", "no-requeue", "parsable", "quiet", "test-only", "wait", "wrap"]
)
LEAST_TIME_S = 60  # between a job's start and the warning; in less not even a network is built


class SlurmCluster(Cluster):
    """A Slurm cluster. The keys are sbatch's options; see `man sbatch`."""

    scheduler: Literal["slurm"]
    partition: Text | None = Field(None, description="null: the site's default")
    account: Text | None = None
    qos: Text | None = None
    time: Text | None = Field(
        None, description="limit, 'minutes', 'hours:minutes:seconds' or 'days-hours'; null: the site's"
    )
    nodes: int = Field(1, ge=1, description="nodes of each run")
    gpus_per_node: int | str | None = Field(None, description="a number, or a type and a number: a100:4")
    cpus_per_task: int | None = Field(None, ge=1, description="cores of each rank; reaches srun too")
    mem: Text | None = Field(
        None,
        description="memory of each node, such as 64G; a bare number is in MB, and 0 all of the node's",
        pattern=r"^(?i:[0-9]{1,12}[KMGT]?B?)$",
    )
    constraint: Text | None = None
    exclude: Text | None = Field(None, description="nodes that must not be used")
    signal_delay_s: int = Field(120, ge=10, description="from the warning (SIGUSR2) to the time limit")
    additional_parameters: dict[str, str | int | bool] = Field(
        {}, description="any other option of sbatch by its long name; true: an option without a value"
    )
    setup: tuple[str, ...] = Field(
        (), description="lines of shell before srun, such as module load; one that fails ends the job"
    )
    python: str | None = Field(
        None,
        description="interpreter of the jobs, with ~ and $NAME as in their shell, also behind the words of a "
        "wrapper; null: the one that submits",
    )

    @field_validator("gpus_per_node", mode="before")
    @classmethod
    def _typed_gpus(cls, gpus: object) -> object:
        if gpus is None:
            return None
        match = _GPUS.fullmatch(str(gpus)) if isinstance(gpus, int | str) else None
        if match is None or not int(match["number"]):
            forms = "a whole number ≥ 1, or a type and a number, such as a100:4"
            raise ValueError(f"expected {forms}, got {shown(gpus)}")
        return gpus if match["type"] else int(match["number"])

    @field_validator("python")
    @classmethod
    def _python_words(cls, python: str | None) -> str | None:
        try:
            if python is not None and not words_of(python):
                raise ValueError("expected an interpreter, got no text")
        except ValueError as error:
            reason = str(error) if str(error).startswith("expected") else "a quote is not closed"
            raise ValueError(f"{reason}: {shown(python)}") from None
        return python

    @field_validator("additional_parameters")
    @classmethod
    def _option_names(cls, parameters: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
        for name in parameters:
            plain = name.replace("_", "-")
            if not re.fullmatch(r"[a-z][a-z0-9-]*", plain):
                raise ValueError(f"{name!r} is not the long name of an option of sbatch")
            if plain in OWN_PARAMETERS:
                raise ValueError(f"{name} is set by shiftbench itself; remove it")
            if plain in UNUSABLE_PARAMETERS:
                raise ValueError(f"{name} cannot be used: shiftbench could not follow its jobs; remove it")
            if plain.replace("-", "_") in cls.model_fields:
                raise ValueError(f"{name} is a key of the cluster itself; give it there")
        return parameters

    @model_validator(mode="after")
    def _check(self) -> "SlurmCluster":
        texts = dict(self) | {f"setup.{number}": line for number, line in enumerate(self.setup)}
        for key in ("additional_parameters", "environment"):
            texts |= {f"{key}.{name}": value for name, value in getattr(self, key).items()}
        for name, value in texts.items():
            if isinstance(value, str) and ("\n" in value or "\0" in value):
                raise ValueError(f"{name} must be one line, got {value!r}")
        if self.num_gpus and self.num_gpus != (self.ntasks_per_node or self.num_gpus):
            differs = "which differs from gpus_per_node"
            raise ValueError(f"ntasks_per_node: a rank takes one GPU: remove ntasks_per_node, {differs}")
        if self.time is not None and time_s(self.time) < self.signal_delay_s + LEAST_TIME_S:
            left = f"less than {LEAST_TIME_S} s are left to train before the warning"
            raise ValueError(f"time: {self.time!r}: {left}; raise it, or lower signal_delay_s")
        return self

    @property
    def num_gpus(self) -> int | None:
        """How many GPUs a run takes on each node, of whatever type."""
        return None if self.gpus_per_node is None else int(str(self.gpus_per_node).rpartition(":")[2])

    @property
    def tasks_per_node(self) -> int:
        return self.ntasks_per_node or self.num_gpus or 1

    @property
    def ranks(self) -> int:
        return self.nodes * self.tasks_per_node


_GPUS = re.compile(r"(?:(?P<type>(?=\d*[A-Za-z_])[\w.-]{1,60}):)?(?P<number>\d{1,4})", re.ASCII)
_VARIABLE = re.compile(r"(\$\w+|\$\{\w+\})", re.ASCII)
_TIME = re.compile(r"(?:(?P<days>\d{1,6})-)?(?P<parts>\d{1,9}(?::\d{1,9}){0,2})", re.ASCII)


def time_s(text: str) -> int:
    """Convert sbatch's --time (minutes, m:s, h:m:s, d-h, d-h:m, d-h:m:s) to seconds. Raises ValueError."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        forms = "'90' (minutes), '12:00:00' or '2-00:00:00'"
        raise ValueError(f"time: expected sbatch's form, such as {forms}, got {shown(text)}")
    parts = [int(part) for part in match["parts"].split(":")]
    if match["days"] is None and len(parts) < 3:
        parts = [0, *parts]
    hours, minutes, seconds = (*parts, 0, 0)[:3]
    return ((int(match["days"] or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


# In a job: the seconds from the warning to the time limit, and the file by which its task asks the script to
# have the job requeued.
GRACE_VARIABLE, REQUEUE_VARIABLE = "SHIFTBENCH_GRACE_S", "SHIFTBENCH_TO_REQUEUE"
_REQUEUE = f"""
code=$?

# The task's own requests to be requeued failed: the controller may be away for longer than its grace time.
for attempt in {{1..120}}; do
    [ -e "${REQUEUE_VARIABLE}" ] || break
    scontrol requeue "$job" && rm -f "${REQUEUE_VARIABLE}"
    sleep 5
done
exit $code
"""
DISTRIBUTED = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
TASK_PICKLE = "task-{}.pkl"


def script(
    num_runs: int, cluster: SlurmCluster, folder: Path, snapshot: Path, after: Sequence[str] = ()
) -> str:
    """Return the script for sbatch.

    `folder`: for the job's pickles and logs; its name is the job's. `snapshot`: the sources that the job
    imports. `after`: the ids of jobs that must end first.
    """
    for path in (folder, snapshot):
        if "%" in str(path) or "\n" in str(path):
            raise UserError(f"{path}: Slurm reads % in a path as a pattern; choose a folder without one")
    try:
        from submitit import SlurmExecutor

        executor = SlurmExecutor(folder, python=shell_words(cluster.python))
    except ImportError:
        raise UserError("submitit is not installed: pip install 'shiftbench[slurm]'") from None
    except RuntimeError:
        raise no_slurm("srun") from None
    executor.update_parameters(**_parameters(cluster, folder, snapshot, after))
    if num_runs > 1:
        executor.parameters["map_count"] = num_runs
    return executor._make_submission_file_text(executor._submitit_command_str, "") + _REQUEUE


def words_of(python: str) -> list[str]:
    """Split `python:` into words as a shell does. Raises ValueError for quotes that do not match.

    A path with blanks is one word: it begins like a path, and its last word continues one.
    """
    last = python.split()[-1:] or [""]
    continues = "/" in last[0] and not last[0].startswith(("/", "~", "$", "-"))
    if python.startswith(("/", "~", "$")) and continues and not set(python) & set("'\"\\"):
        return [python]
    return shlex.split(python)


def shell_words(python: str | None) -> str:
    """Return an interpreter, and its wrapper, for a shell, which replaces `~` and `$NAME`."""
    return " ".join(map(_shell_word, [sys.executable] if python is None else words_of(python)))


def _shell_word(word: str) -> str:
    home = re.match(r"~[\w.-]*(?:/|$)", word)
    start = home[0] if home else ""
    parts = _VARIABLE.split(word.removeprefix(start))
    # `:?` ends the job where the variable is empty, and says so; another Python would train otherwise.
    quoted = [
        f'"${{{part.strip("${}")}:?}}"' if n % 2 else shlex.quote(part)
        for n, part in enumerate(parts)
        if part
    ]
    return start + "".join(quoted)


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
    cpus = [f"--cpus-per-task={cluster.cpus_per_task}"] if cluster.cpus_per_task else []
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
        "setup": [*set_up(cluster, snapshot), *_own_files(cluster, folder, snapshot)],
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
        *(_checked(cluster.setup) if isinstance(cluster, SlurmCluster) and cluster.setup else ()),
        "export SLURM_EXPORT_ENV=ALL  # srun hands these on, whatever the site's default",
        f"export PYTHONPATH={shlex.quote(str(snapshot))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export PYTHONSAFEPATH=1  # not what lies where the job was submitted",
    ]


def _checked(lines: Sequence[str]) -> list[str]:
    """Return lines of shell of which the first that fails ends the job, with a sentence that names it."""
    # In a function, such as `module`, BASH_COMMAND is what failed inside it.
    what = "${FUNCNAME[0]:+${FUNCNAME[0]}: }$BASH_COMMAND"
    say = f'echo "shiftbench: setup failed with exit code $?: {what}" >&2'
    return ["set -eE", f"trap {shlex.quote(say)} ERR", *lines, "trap - ERR", "set +eE"]


def _own_files(cluster: SlurmCluster, submission_folder: Path, snapshot: Path) -> list[str]:
    """Return lines of shell that give this task its pickle, by the name that Submitit expects, and paths."""
    folder, pickle = shlex.quote(str(submission_folder)), TASK_PICKLE.format("${SLURM_ARRAY_TASK_ID:-0}")
    return [
        'job="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"',
        # An existing one is kept: after an early warning Submitit has written a pickle that counts them.
        f'[ -e {folder}/"${{job}}_submitted.pkl" ] || ln -s "{pickle}" {folder}/"${{job}}_submitted.pkl"',
        f"export {SNAPSHOT_VARIABLE}={shlex.quote(str(snapshot))}",
        f"export {GRACE_VARIABLE}={cluster.signal_delay_s}",
        f'export {REQUEUE_VARIABLE}={folder}/"${{job}}_to_requeue"',
        f'rm -f "${REQUEUE_VARIABLE}"',
    ]
