"""The YAML of a Slurm cluster, in sbatch's words, validated before anything is submitted."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from jobs.cluster.backend import Cluster

# shiftbench sets these itself: they decide where a job's files lie and how it is stopped and restarted.
OWN_PARAMETERS = frozenset({"array", "error", "job-name", "open-mode", "output", "requeue", "signal"})
# With these sbatch creates no job, does not print its id, or creates it where shiftbench does not look.
UNUSABLE_PARAMETERS = frozenset(
    ["cluster-constraint", "clusters", "help", "no-requeue", "parsable", "quiet", "test-only", "wait", "wrap"]
)
LEAST_TIME_S = 60  # between a job's start and the warning; in less not even a network is built


class SlurmCluster(Cluster):
    """A Slurm cluster. The keys are sbatch's options; see `man sbatch`."""

    scheduler: Literal["slurm"]
    partition: str | None = Field(None, description="null: the site's default")
    account: str | None = None
    qos: str | None = None
    time: str | None = Field(
        None,
        description="time limit of a job: 'minutes', 'hours:minutes:seconds' or 'days-hours'; "
        "null: the site's default",
    )
    nodes: int = Field(1, ge=1, description="nodes of each run")
    gpus_per_node: int | None = Field(None, ge=1)
    cpus_per_task: int | None = Field(None, ge=1, description="cores of each rank; reaches srun too")
    mem: str | None = Field(None, description="memory of each node, such as 64G", pattern=r"^\d+[KMGT]?B?$")
    constraint: str | None = None
    exclude: str | None = Field(None, description="nodes that must not be used")
    signal_delay_s: int = Field(
        120,
        ge=10,
        description="seconds between the warning (SIGUSR2) and the time limit: enough for a checkpoint",
    )
    additional_parameters: dict[str, str | int | bool] = Field(
        {}, description="any other option of sbatch by its long name; true: an option without a value"
    )
    setup: tuple[str, ...] = Field(
        (), description="lines of shell to execute before srun, such as module load"
    )
    python: str | None = Field(None, description="interpreter of the jobs; null: the one that submits")

    @field_validator("time", mode="before")
    @classmethod
    def _time_in_quotes(cls, time: object) -> object:
        # YAML 1.1 reads 12:00:00 as the number 43200.
        if isinstance(time, int):
            raise ValueError(f"put it in quotes, as in '12:00:00' or '90' (minutes): YAML made it {time}")
        return time

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
        for name, value in self._texts().items():
            if "\n" in value or "\0" in value:
                raise ValueError(f"{name} must be one line, got {value!r}")
        if self.gpus_per_node and self.gpus_per_node != (self.ntasks_per_node or self.gpus_per_node):
            raise ValueError(
                f"a rank takes one GPU, but ntasks_per_node is {self.ntasks_per_node} "
                f"and gpus_per_node {self.gpus_per_node}; remove ntasks_per_node"
            )
        if self.time is not None:
            seconds = time_s(self.time)
            if seconds < self.signal_delay_s + LEAST_TIME_S:
                raise ValueError(
                    f"time {self.time!r} is {seconds} s: the warning comes {self.signal_delay_s} s before "
                    f"its end, so that less than {LEAST_TIME_S} s are left to train; raise time or lower "
                    "signal_delay_s"
                )
        return self

    def _texts(self) -> dict[str, str]:
        texts = {k: v for k, v in self if isinstance(v, str)}
        texts |= {f"additional_parameters.{k}": str(v) for k, v in self.additional_parameters.items()}
        texts |= {f"setup.{i}": line for i, line in enumerate(self.setup)}
        return texts | {f"environment.{k}": v for k, v in self.environment.items()}

    @property
    def tasks_per_node(self) -> int:
        return self.ntasks_per_node or self.gpus_per_node or 1

    @property
    def ranks(self) -> int:
        return self.nodes * self.tasks_per_node

    @property
    def setup_lines(self) -> tuple[str, ...]:
        return self.setup


_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")


def time_s(text: str) -> int:
    """Convert sbatch's --time (minutes, m:s, h:m:s, d-h, d-h:m, d-h:m:s) to seconds. Raises ValueError."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"time {text!r}: expected sbatch's form, such as '90' (minutes), '12:00:00' or '2-00:00:00'"
        )
    parts = [int(part) for part in match["parts"].split(":")]
    if match["days"] is not None:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, (minutes, seconds) = 0, (*parts, 0)[:2]
    return ((int(match["days"] or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
