"""The YAML of a Slurm cluster, in sbatch's words."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from jobs.cluster.backend import Cluster, Text
from jobs.cluster.container import OWN_FILES, ContainerSpec
from jobs.cluster.shell import words_of
from suite.errors import UserError
from suite.wording import shown

# shiftbench sets these itself: they decide where a job's files lie and how it is stopped and restarted.
OWN_PARAMETERS = ("array", "error", "job-name", "open-mode", "output", "requeue", "signal")
# With these sbatch creates no job, does not print its id, or creates it where shiftbench does not look.
UNUSABLE_PARAMETERS = frozenset(
    ["cluster-constraint", "clusters", "help", "no-requeue", "parsable", "quiet", "test-only", "wait", "wrap"]
)
GPU_OPTIONS = frozenset(["gpus", "gpus-per-socket", "gpus-per-task"])
"""Options that ask for GPUs whatever their value is, beside the key `gpus_per_node`."""
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
    container: ContainerSpec | None = Field(
        None, description="the image that the tasks run in; setup runs outside, before srun"
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
            if plain.startswith(("container-", "no-container-")):
                raise ValueError(f"{name} would put the script inside; say container: {{image: …}} instead")
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
        if self.container is not None and self.python is not None:
            raise ValueError("python: the jobs run the image's, container.python; remove python")
        if self.time is not None and time_s(self.time) < self.signal_delay_s + LEAST_TIME_S:
            left = f"less than {LEAST_TIME_S} s are left to train before the warning"
            raise ValueError(f"time: {self.time!r}: {left}; raise it, or lower signal_delay_s")
        return self

    @property
    def num_gpus(self) -> int | None:
        """How many GPUs a run takes on each node, of whatever type."""
        return None if self.gpus_per_node is None else int(str(self.gpus_per_node).rpartition(":")[2])

    @property
    def has_gpus(self) -> bool:
        """Whether the file asks for GPUs, also by options that are no keys of their own."""
        more = plain(self.additional_parameters)
        named = any("gpu" in str(more.get(option, "")) for option in ("gres", "tres-per-task"))
        return bool(self.num_gpus) or named or not more.keys().isdisjoint(GPU_OPTIONS)

    def check_image(self) -> None:
        """Raise UserError for a container's image that is missing, if this machine can tell."""
        if self.container is not None and (missing := self.container.missing()):
            fix = f"name one that this machine and the nodes share, or build one from {OWN_FILES}"
            raise UserError(f"cluster {self.name}: {missing}: {fix}")

    @property
    def variables(self) -> dict[str, str]:
        return self._variables("closest" if self.has_gpus and self.ranks > 1 else None)

    @property
    def tasks_per_node(self) -> int:
        return self.ntasks_per_node or self.num_gpus or 1

    @property
    def ranks(self) -> int:
        return self.nodes * self.tasks_per_node


_GPUS = re.compile(r"(?:(?P<type>(?=\d*[A-Za-z_])[\w.-]{1,60}):)?(?P<number>\d{1,4})", re.ASCII)
_TIME = re.compile(r"(?:(?P<days>\d{1,6})-)?(?P<parts>\d{1,9}(?::\d{1,9}){0,2})", re.ASCII)


def plain(options: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
    """Return options by the names that sbatch and srun use."""
    return {name.replace("_", "-"): value for name, value in options.items() if value is not False}


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
