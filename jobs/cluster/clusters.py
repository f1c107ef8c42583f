"""Clusters: where runs are trained. YAML of their own, which name no science.

`scheduler: local` is this machine; `scheduler: slurm` takes sbatch's own words. Everything is validated
here, before anything is submitted.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from suite.config import explain, read_yaml
from suite.errors import UserError
from suite.specs.base import Spec

FOLDERS = (Path("configs/clusters"), Path(__file__).resolve().parents[2] / "configs" / "clusters")
# What decides where a job's files lie and how it is stopped and restarted is not the user's to set.
OWN_PARAMETERS = frozenset({"array", "error", "job-name", "open-mode", "output", "requeue", "signal"})
# With these sbatch would not say which job it made, or make none, or make it where nobody looks for it.
UNUSABLE_PARAMETERS = frozenset(
    ["cluster-constraint", "clusters", "help", "no-requeue", "parsable", "quiet", "test-only", "wait", "wrap"]
)
LEAST_TIME_S = 60  # before the warning: less is gone before a network is built


class _Cluster(Spec):
    """What every cluster has."""

    name: str = Field("", description="the file's name, unless given")
    ntasks_per_node: int | None = Field(
        None, ge=1, description="ranks on each node; null: gpus_per_node, else 1"
    )
    array_parallelism: int | None = Field(None, ge=1, description="runs at a time; null: no limit (local: 1)")
    environment: dict[str, str] = Field(
        {}, description="variables of the jobs, as they stand; whoever can read the runs can read these"
    )
    jobs_folder: str | None = Field(
        None,
        description="for the submissions' files; null: beside the runs if only you can write there, "
        "else ~/.shiftbench",
    )

    @field_validator("environment")
    @classmethod
    def _variable_names(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"{name!r} is not the name of an environment variable")
        return environment


class LocalCluster(_Cluster):
    """This machine, without a scheduler: runs are processes of a launcher in the background."""

    scheduler: Literal["local"] = "local"

    @property
    def ranks(self) -> int:
        return self.ntasks_per_node or 1


class SlurmCluster(_Cluster):
    """Slurm, in sbatch's words; see `man sbatch`."""

    scheduler: Literal["slurm"]
    partition: str | None = Field(None, description="null: the site's default")
    account: str | None = None
    qos: str | None = None
    time: str | None = Field(
        None,
        description="limit of a job, 'minutes', 'hours:minutes:seconds' or 'days-hours'; null: the site's",
    )
    nodes: int = Field(1, ge=1, description="nodes of each run")
    gpus_per_node: int | None = Field(None, ge=1)
    cpus_per_task: int | None = Field(None, ge=1, description="cores of each rank; reaches srun too")
    mem: str | None = Field(None, description="of a node, such as 64G", pattern=r"^\d+[KMGT]?B?$")
    constraint: str | None = None
    exclude: str | None = Field(None, description="nodes to keep off")
    signal_delay_s: int = Field(
        120, ge=10, description="the warning (SIGUSR2) comes so long before the limit: time for a checkpoint"
    )
    additional_parameters: dict[str, str | int | bool] = Field(
        {}, description="any other option of sbatch by its long name; true: an option without a value"
    )
    setup: tuple[str, ...] = Field((), description="lines of shell before srun, such as module load")
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
                raise ValueError(f"{name} cannot be used: shiftbench would lose sight of its jobs; remove it")
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
                    f"time {self.time!r} is {seconds} s: with the warning {self.signal_delay_s} s before its "
                    f"end less than {LEAST_TIME_S} s are left to train; raise time or lower signal_delay_s"
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
        """Ranks of each run."""
        return self.nodes * self.tasks_per_node


Cluster = Annotated[LocalCluster | SlurmCluster, Field(discriminator="scheduler")]
_ADAPTER: TypeAdapter[LocalCluster | SlurmCluster] = TypeAdapter(Cluster)


def load_cluster(name_or_path: str) -> LocalCluster | SlurmCluster:
    """A cluster by the path of its YAML, or by its name in configs/clusters. Raises UserError."""
    path = _find(name_or_path)
    content = read_yaml(path)
    content.setdefault("name", path.stem)
    return parse_cluster(content, str(path))


def parse_cluster(content: dict[str, object], where: str) -> LocalCluster | SlurmCluster:
    """Validate a cluster. Raises UserError that names `where`."""
    kind = content.get("scheduler")
    if kind not in ("local", "slurm"):
        raise UserError(f"{where}: scheduler: expected local or slurm, got {kind!r}")
    try:
        return _ADAPTER.validate_python(content)
    except ValidationError as error:
        # The union's tag stands before the key.
        root = SlurmCluster if kind == "slurm" else LocalCluster
        raise UserError(f"{where}: {explain(error, root, skip=1)}") from None


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    for folder in FOLDERS:
        if (folder / f"{name_or_path}.yaml").is_file():
            return folder / f"{name_or_path}.yaml"
    known = sorted({path.stem for folder in FOLDERS for path in folder.glob("*.yaml")})
    raise UserError(
        f"no cluster {name_or_path!r}: expected a YAML file, or one of {', '.join(known)} in {FOLDERS[0]}"
    )


_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")


def time_s(text: str) -> int:
    """Seconds of sbatch's --time: minutes, m:s, h:m:s, d-h, d-h:m, d-h:m:s. Raises ValueError."""
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
