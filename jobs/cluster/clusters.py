"""Clusters: YAML files that say where runs are trained, and the table of schedulers."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from jobs.cluster.backend import Backend
from jobs.cluster.ledger import Submission
from jobs.cluster.local_backend import LocalBackend, LocalCluster
from jobs.cluster.slurm_backend import SlurmBackend
from jobs.cluster.slurm_cluster import SlurmCluster, time_s
from suite.config_file import naming, read_config
from suite.errors import UserError
from suite.shipped import CLUSTERS
from suite.user import expand_path
from suite.wording import explain, shown

__all__ = ["AnyCluster", "LocalCluster", "SlurmCluster", "time_s"]

BACKENDS: dict[str, Backend[Any]] = {"local": LocalBackend(), "slurm": SlurmBackend()}
# The same choices for the type checker.
AnyCluster = LocalCluster | SlurmCluster
ItemT = TypeVar("ItemT")
FOLDERS = (Path("configs/clusters"), CLUSTERS)


def load_cluster(name_or_path: str) -> AnyCluster:
    """Read a cluster by the path of its YAML, or by its name in configs/clusters. Raises UserError."""
    path = _find(name_or_path)
    file = read_config(path, "cluster")
    file.check_kind("cluster")
    cluster = parse_cluster({"name": path.stem} | file.resolved(), str(path))
    with naming(path):
        expand_path(cluster.jobs_folder or "", "jobs_folder")
    return cluster


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        return path
    with suppress(OSError, ValueError):  # no name of a file: too long, or not readable
        if path.is_file():
            return path
        for folder in FOLDERS:
            if (found := folder / f"{name_or_path}.yaml").is_file():
                return found
    names = sorted({path.stem for folder in FOLDERS for path in folder.glob("*.yaml")})
    known = f"one of {', '.join(names)} in {FOLDERS[0]}"
    raise UserError(f"no cluster {shown(name_or_path)}: expected a YAML file, or {known}")


def parse_cluster(content: dict[str, object], where: str) -> AnyCluster:
    """Validate a cluster. Raises UserError that names `where`."""
    cluster_type = _backend_named(content.get("scheduler"), where).cluster_type
    try:
        return cast(AnyCluster, cluster_type.model_validate(content))
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, cluster_type)}") from None


def is_slurm(cluster: AnyCluster) -> bool:
    """Return whether a cluster is Slurm's, and not this machine. Raises UserError for any other scheduler."""
    if cluster.scheduler not in ("local", "slurm"):
        raise UserError(f"cluster {cluster.name}: expected scheduler local or slurm, got {cluster.scheduler}")
    return cluster.scheduler == "slurm"


def backend_of(submission: Submission) -> Backend[Any]:
    """Return the backend that a submission went to. Raises UserError for an unknown scheduler."""
    return _backend_named(submission.scheduler, f"submission {submission.name}")


def by_backend(
    items: Iterable[ItemT], submission_of: Callable[[ItemT], Submission]
) -> dict[Backend[Any], list[ItemT]]:
    """Group items by the backend of their submission. Raises UserError for an unknown scheduler."""
    groups: dict[Backend[Any], list[ItemT]] = {}
    for item in items:
        groups.setdefault(backend_of(submission_of(item)), []).append(item)
    return groups


def _backend_named(scheduler: object, where: str) -> Backend[Any]:
    if not isinstance(scheduler, str) or scheduler not in BACKENDS:
        found = "missing; " if scheduler is None else ""
        got = "" if scheduler is None else f", got {shown(scheduler)}"
        raise UserError(f"{where}: scheduler: {found}expected {' or '.join(sorted(BACKENDS))}{got}")
    return BACKENDS[scheduler]
