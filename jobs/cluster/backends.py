"""The table of schedulers. A cluster's YAML chooses one by its key `scheduler`."""

from typing import Any

from jobs.cluster.backend import Backend
from jobs.cluster.ledger import Submission
from jobs.cluster.local_backend import LocalBackend, LocalCluster
from jobs.cluster.slurm_backend import SlurmBackend
from jobs.cluster.slurm_cluster import SlurmCluster
from suite.errors import UserError

BACKENDS: dict[str, Backend[Any]] = {"local": LocalBackend(), "slurm": SlurmBackend()}
# The same choices for the type checker.
AnyCluster = LocalCluster | SlurmCluster


def backend_named(scheduler: object, where: str) -> Backend[Any]:
    """Return a backend by its name in the table. Raises UserError that names `where` for an unknown one."""
    if not isinstance(scheduler, str) or scheduler not in BACKENDS:
        expected = " or ".join(sorted(BACKENDS))
        raise UserError(f"{where}: scheduler: expected {expected}, got {scheduler!r}")
    return BACKENDS[scheduler]


def backend_of(submission: Submission) -> Backend[Any]:
    """Return the backend that a submission went to. Raises UserError for an unknown scheduler."""
    return backend_named(submission.scheduler, f"submission {submission.name}")


def job_ids(submission: Submission) -> dict[str, str]:
    """Return the job of each run folder of a submission, by name."""
    return backend_of(submission).job_ids(submission)


def by_backend(submissions: list[Submission]) -> list[tuple[Backend[Any], list[Submission]]]:
    """Group submissions by their backend. Raises UserError for an unknown scheduler."""
    groups: dict[str, list[Submission]] = {}
    for one in submissions:
        backend_of(one)
        groups.setdefault(one.scheduler, []).append(one)
    return [(BACKENDS[name], group) for name, group in groups.items()]
