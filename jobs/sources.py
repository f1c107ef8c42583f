"""The sources that this process imports: their hash, and whether they are those that were submitted."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from suite.errors import UserError
from suite.provenance import ROOT, SOURCE_PACKAGES, code_state

SNAPSHOT_VARIABLE = "SHIFTBENCH_SNAPSHOT"
"""The environment variable in which the processes of a local submission have the path of their sources."""


def check_own_sources(snapshot: str | None = None) -> None:
    """Raise UserError when this process does not run the copy of the sources that was made for it.

    Python would import a checkout that is installed here instead, in whatever state it is now. `snapshot`:
    the path of the copy; None: that in the environment, or any sources where there is none.
    """
    wanted = snapshot or os.environ.get(SNAPSHOT_VARIABLE)
    if wanted is None:
        return
    path = Path(wanted)
    if not path.is_dir():
        raise UserError(f"{path}: the sources that this job was submitted with were removed; submit it again")
    if path.resolve() != ROOT:
        other = f"this job imported {ROOT} instead of the sources that it was submitted with, {path}"
        raise UserError(f"{other}: see `python` and `setup` in the cluster's file, and PYTHONPATH")
    if sources_digest(ROOT) != path.name:
        raise UserError(f"{path}: the sources that this job was submitted with were changed; submit it again")


def sources_digest(root: Path) -> str:
    """Return a hash of the sources below `root` and of their commit."""
    digest = hashlib.sha256(str(code_state().git_sha).encode())
    for relative in sorted(source_files(root)):
        digest.update(f"{relative}\0".encode() + hashlib.sha256((root / relative).read_bytes()).digest())
    return digest.hexdigest()[:12]


def source_files(root: Path) -> Iterator[Path]:
    """Yield the paths of the sources below `root`, relative to it."""
    for path in (path for package in SOURCE_PACKAGES for path in (root / package).rglob("*")):
        if path.suffix not in (".pyc", ".pyo") and "__pycache__" not in path.parts and path.is_file():
            yield path.relative_to(root)
