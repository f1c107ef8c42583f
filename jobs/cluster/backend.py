"""The `Backend` protocol: what shiftbench asks of a scheduler, and what every cluster's YAML has in common.

A backend is one module with one class, entered in the table of jobs/cluster/clusters.py.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import BeforeValidator, Field, field_validator

from jobs.checks import read_run
from jobs.cluster.ledger import Submission
from suite.binding import BINDINGS, BindingName
from suite.binding import VARIABLE as BINDING_VARIABLE
from suite.errors import UserError
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import (
    RankError,
    RecordWriter,
    State,
    Status,
    StopRequest,
    request_stop,
    time_left_s,
)
from suite.record.hang import Hang
from suite.record.reader import read_config
from suite.record.shapes import COUNT
from suite.specs.base import Spec
from suite.user import user_name

# Text that people write as a whole number, such as an account 4711 or OMP_NUM_THREADS: 4.
Text = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]


class Cluster(Spec):
    """The keys that a cluster has whatever its scheduler is. Each backend derives its own type from this."""

    name: Text = Field("", description="default: the name of the file")
    ntasks_per_node: int | None = Field(None, ge=1, description="ranks on a node; null: one for each GPU")
    array_parallelism: int | None = Field(None, ge=1, description="runs at a time; null: no limit (local: 1)")
    environment: dict[str, Text] = Field(
        {}, description="variables of the jobs; the ledger shows them to all"
    )
    binding: BindingName | None = Field(
        None,
        description="; ".join(f"{name}: {meaning}" for name, meaning in BINDINGS.items())
        + "; null: closest, for GPUs and several ranks",
    )
    jobs_folder: str | None = Field(None, description="folder of jobs' files; null: beside the runs or in ~")
    scheduler: str

    @field_validator("environment")
    @classmethod
    def _variable_names(cls, environment: dict[str, Text]) -> dict[str, str]:
        for name in environment:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"{name!r} is not the name of an environment variable")
        return environment

    @property
    def variables(self) -> dict[str, str]:
        """The variables of the jobs: the file's own, and that of `binding`."""
        return self._variables(None)

    def _variables(self, binding: str | None) -> dict[str, str]:
        binding = self.binding or binding
        return {**({BINDING_VARIABLE: binding} if binding else {}), **self.environment}

    @property
    def tasks_per_node(self) -> int:
        """How many ranks of a run share a node."""
        return self.ntasks_per_node or 1

    @property
    def ranks(self) -> int:
        return self.tasks_per_node

    @property
    def runs_at_a_time(self) -> int | None:
        """How many runs may train at a time, over all submissions of an output folder; None: no limit."""
        return self.array_parallelism


ClusterT = TypeVar("ClusterT", bound=Cluster)


@dataclass(frozen=True)
class NewJob:
    """One call of a scheduler that is about to be made."""

    submission: Submission
    runs: Sequence[Run]
    output_dir: Path
    after: tuple[str, ...] = ()  # the ids of jobs that must end first


@dataclass(frozen=True)
class SubmittedRun:
    """A run folder, the status in its record, and its newest submission."""

    folder: Path
    status: Status
    submission: Submission


@dataclass(frozen=True)
class ActiveJob:
    """A job that is queued or running. `is_ending`: its processes end, so that its run can soon be retried.

    `text`: its id, and its user where that is another one.
    """

    text: str
    is_ending: bool = False


@dataclass(frozen=True)
class JobVerdict:
    """A run's state and its reason. `is_final`: it has ended, and only the scheduler knows how."""

    state: State
    reason: str
    is_final: bool = False


@dataclass(frozen=True)
class SchedulerAnswer:
    """What a scheduler says of a run: its job's id, its nodes, and the state that follows."""

    job: str | None = None
    nodes: str = ""
    verdict: JobVerdict | None = None  # None: the record alone decides
    is_unknown: bool = False  # the scheduler was asked for the job's state and did not answer
    is_ending: bool = False  # as for ActiveJob


ShownState = State | Literal["planned", "starting", "cancelling"]
"""A run's state as users see it. What is planned or starting has written no record, or an older one."""


@dataclass(frozen=True)
class RunStatus:
    """One run: what its record (`content` is status.json) and its newest submission's scheduler say."""

    folder: Path
    state: ShownState
    reason: str
    job: str | None = None
    submission: Submission | None = None
    node: str = ""
    content: dict[str, Any] = field(default_factory=dict)
    errors: list[RankError] = field(default_factory=list)
    hang: Hang | None = None
    is_ending: bool = False  # its job ends, after which it can be retried

    @property
    def epochs(self) -> int | None:
        """The number of epochs that the record counts. Reads run.json on every access."""
        with suppress(OSError, UserError):
            config = read_config(RunPaths(self.folder))[0]
            recipe, measure = (config.get(section) for section in ("recipe", "measure"))
            epochs, iterations = (_count(recipe, name) for name in ("epochs", "iterations"))
            if not iterations:
                return epochs
            return iterations // (_count(measure, "every_iterations") or iterations)
        return None

    @property
    def run_id(self) -> str:
        return self.folder.name.rpartition("-")[2]

    @property
    def label(self) -> str:
        return self.folder.name.rpartition("-")[0] or self.folder.name

    @property
    def is_unfinished(self) -> bool:
        return self.state in ("queued", "planned", "starting", "running", "cancelling")

    @property
    def cluster(self) -> str:
        return str(self.submission.cluster.get("name", "")) if self.submission else ""

    @property
    def restarts(self) -> int:
        attempts: int = self.content.get("attempts", 0)
        return max(0, attempts - 1)

    @property
    def eta_s(self) -> float | None:
        """Seconds to the end at this attempt's pace, evaluations included; None before it is known."""
        return time_left_s({**self.content, "state": self.state})


class Backend(Protocol[ClusterT]):
    """One scheduler. Methods raise UserError when it refuses or does not answer."""

    cluster_type: type[ClusterT]
    job_noun: str  # what a submission is called in messages
    ends_together: bool  # whether cancelling one run ends every run of its submission

    def max_runs(self) -> int | None:
        """Return how many runs one call takes; None for no limit."""

    def preview(self, job: NewJob, cluster: ClusterT) -> str:
        """Return the script or the command line that `submit` would use. Writes nothing."""

    def submit(self, job: NewJob, cluster: ClusterT) -> str:
        """Make the call and return the job's id. After a SlurmError of kind `answer_lost` it may exist."""

    def job_ids(self, submission: Submission, job_id: str | None = None) -> dict[str, str]:
        """Return the job of each run folder by name, by `job_id` or the submission's; empty without an id."""

    def active(self, submissions: Sequence[Submission], output_dir: Path) -> dict[str, ActiveJob]:
        """Return the job of every run folder that is queued or running, by name."""

    def query(
        self, runs: Sequence[SubmittedRun], *, is_being_submitted: bool
    ) -> tuple[dict[Path, SchedulerAnswer], list[str]]:
        """Return an answer for each run folder, and a note for each question that stayed unanswered."""

    def out_of_reach(self, submission: Submission) -> str | None:
        """Return why a submission cannot be cancelled from this machine, or None."""

    def cancel(self, runs: Sequence[RunStatus]) -> None:
        """Cancel the jobs of these runs. Running ones write a checkpoint first."""

    def log_files(self, submission: Submission, job: str, rank: int) -> list[Path]:
        """Return where the output of a job's rank is written; the files need not exist."""

    def current_job(self) -> str | None:
        """Return the id of the job that this process belongs to, or None outside a job."""


def ask_to_end(run: RunStatus) -> None:
    """Ask a run that trains to end as cancelled, and not as preempted, unless its folder is others'."""
    if run.state in ("starting", "running"):
        with suppress(OSError):
            request_stop(RunPaths(run.folder), StopRequest("cancelled", "`shiftbench cancel`", user_name()))


def settle(folder: Path, verdict: JobVerdict, status: Status) -> None:
    """Write a verdict into the record, if it can be written and has not changed since `status` was read."""
    # Not durable: there may be thousands, and Slurm can be asked again.
    with (
        suppress(OSError, UserError, ValueError),
        RecordWriter(read_run(folder), folder, durable=False) as record,
    ):
        if record.detail("updated_at") == status.content.get("updated_at"):
            record.mark_ended(verdict.state, verdict.reason)


def _count(section: Any, name: str) -> int | None:
    """Return a whole number of a section of run.json; None where there is none."""
    value = section.get(name) if isinstance(section, dict) else None
    return value if COUNT.fits(value) else None
