"""Reads clusters: YAML files that say where runs are trained, and nothing about the science."""

from pathlib import Path
from typing import cast

from pydantic import ValidationError

from jobs.cluster.backends import AnyCluster, backend_named
from jobs.cluster.local_backend import LocalCluster
from jobs.cluster.slurm_cluster import SlurmCluster, time_s
from suite.config import explain, read_yaml
from suite.errors import UserError

__all__ = ["AnyCluster", "LocalCluster", "SlurmCluster", "load_cluster", "parse_cluster", "time_s"]

FOLDERS = (Path("configs/clusters"), Path(__file__).resolve().parents[2] / "configs" / "clusters")


def load_cluster(name_or_path: str) -> AnyCluster:
    """Read a cluster by the path of its YAML, or by its name in configs/clusters. Raises UserError."""
    path = _find(name_or_path)
    content = read_yaml(path)
    content.setdefault("name", path.stem)
    return parse_cluster(content, str(path))


def parse_cluster(content: dict[str, object], where: str) -> AnyCluster:
    """Validate a cluster. Raises UserError that names `where`."""
    backend = backend_named(content.get("scheduler"), where)
    try:
        return cast(AnyCluster, backend.cluster_type.model_validate(content))
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, backend.cluster_type)}") from None


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
