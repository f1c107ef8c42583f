"""The `Backend` protocol: what shiftbench asks of a scheduler, and what every cluster's YAML has in common.

A backend is one module with one class, entered in the table of jobs/cluster/backends.py.
"""

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import Field, field_validator

from jobs.cluster.job_verdicts import JobVerdict
from jobs.cluster.ledger import Submission
from jobs.cluster.run_status import RunStatus
from suite.experiment import Run
from suite.record import Status
from suite.specs.base import Spec


class Cluster(Spec):
    """The keys that a cluster has whatever its scheduler is. Each backend derives its own type from this."""

    name: str = Field("", description="default: the name of the file")
    ntasks_per_node: int | None = Field(
        None, ge=1, description="ranks on each node; null: gpus_per_node, else 1"
    )
    array_parallelism: int | None = Field(None, ge=1, description="runs at a time; null: no limit (local: 1)")
    environment: dict[str, str] = Field(
        {}, description="environment variables of the jobs; readable by everyone who can read the runs"
    )
    jobs_folder: str | None = Field(
        None,
        description="folder for the submissions' files; null: beside the runs if only you can write there, "
        "else ~/.shiftbench",
    )
    scheduler: str

    @field_validator("environment")
    @classmethod
    def _variable_names(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"{name!r} is not the name of an environment variable")
        return environment

    @property
    @abstractmethod
    def ranks(self) -> int:
        """Ranks of each run."""

    @property
    def setup_lines(self) -> tuple[str, ...]:
        """Lines of shell that a job executes before it trains."""
        return ()


ClusterT = TypeVar("ClusterT", bound=Cluster)


@dataclass(frozen=True)
class NewJob:
    """One call of a scheduler that is about to be made.

    `after`: the id of a job that must end before this one begins.
    """

    submission: Submission
    runs: Sequence[Run]
    output_dir: Path
    after: str | None = None


@dataclass(frozen=True)
class SubmittedRun:
    """A run folder, the status in its record, and its newest submission."""

    folder: Path
    status: Status
    submission: Submission


@dataclass(frozen=True)
class Answer:
    """What a scheduler says of a run: its job's id, its nodes, and the state that follows.

    `verdict` is None where the record alone decides.
    """

    job: str | None = None
    nodes: str = ""
    verdict: JobVerdict | None = None


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
        """Make the call and return the job's id.

        Raises SlurmError of kind `answer_lost` when the job may exist; any other error means that none does.
        """

    def job_ids(self, submission: Submission, job_id: str | None = None) -> dict[str, str]:
        """Return the job of each run folder by name; empty before the scheduler has given an id.

        `job_id`: the id to assume instead of the one in the submission.
        """

    def active(self, submissions: Sequence[Submission], output_dir: Path) -> dict[str, str]:
        """Return the job of every run folder that is queued or running, by name."""

    def query(
        self, runs: Sequence[SubmittedRun], *, is_being_submitted: bool
    ) -> tuple[dict[Path, Answer], list[str]]:
        """Return an answer for each run folder, and a note for each question that stayed unanswered.

        `is_being_submitted`: whether a submission into this output folder is under way.
        """

    def out_of_reach(self, submission: Submission) -> str | None:
        """Return why a submission cannot be cancelled from this machine, or None."""

    def cancel(self, runs: Sequence[RunStatus]) -> None:
        """Cancel the jobs of these runs. Running ones write a checkpoint first."""

    def log_files(self, submission: Submission, job: str, rank: int) -> list[Path]:
        """Return where the output of a job's rank is written; the files need not exist."""

    def current_job(self) -> str | None:
        """Return the id of the job that this process belongs to, or None outside a job."""
