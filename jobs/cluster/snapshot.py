"""Copies of the sources for jobs to import, so that edits while they wait change nothing."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from jobs.cluster.ledger import private_folder
from suite.errors import UserError
from suite.files import draft_of, publish_folder, write_atomically
from suite.provenance import ROOT, SNAPSHOT_NOTE, SOURCE_PACKAGES, code_state

SNAPSHOT_VARIABLE = "SHIFTBENCH_SNAPSHOT"
"""The environment variable in which a job has the path of its sources."""


def snapshot(into: Path) -> Path:
    """Copy the packages and a note of their commit into a folder below `into`, and return it.

    Each state of the sources has one folder, which appears complete or not at all; one that has lost files
    is completed. Raises UserError when it cannot be written.
    """
    name = snapshot_name()
    if (folder := into / name).is_dir() and _digest(folder) == name:
        return folder
    private_folder(into)
    try:
        with draft_of(into / name) as draft:
            for relative in _files(ROOT):
                (draft / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / relative, draft / relative)
            name = _digest(draft)  # of the copies: a file may have been saved meanwhile
            note = asdict(replace(code_state(), snapshot=name))
            write_atomically(draft / SNAPSHOT_NOTE, json.dumps(note, indent=1) + "\n", durable=False)
            if not publish_folder(draft, into / name):
                # Another submission has published it, or it has lost files.
                shutil.copytree(draft, into / name, dirs_exist_ok=True, copy_function=os.replace)
    except OSError as error:
        raise UserError(f"{into}: the sources cannot be copied there: {error.strerror}") from None
    return into / name


def check_own_sources() -> None:
    """Raise UserError when this job does not run the copy of the sources that it was submitted with.

    Python would import a checkout that is installed here instead, in whatever state it is now.
    """
    wanted = os.environ.get(SNAPSHOT_VARIABLE)
    if wanted is None:  # submitted by an earlier version
        return
    path = Path(wanted)
    if path.resolve() != ROOT:
        raise UserError(f"{path}: the sources that this job was submitted with were removed; submit it again")
    if snapshot_name() != path.name:
        raise UserError(f"{path}: the sources that this job was submitted with were changed; submit it again")


def snapshot_name() -> str:
    """Return a hash of the sources and their commit."""
    return _digest(ROOT)


def _digest(root: Path) -> str:
    digest = hashlib.sha256(str(code_state().git_sha).encode())
    for relative in sorted(_files(root)):
        digest.update(f"{relative}\0".encode() + hashlib.sha256((root / relative).read_bytes()).digest())
    return digest.hexdigest()[:12]


def _files(root: Path) -> Iterator[Path]:
    for path in (path for package in SOURCE_PACKAGES for path in (root / package).rglob("*")):
        if path.suffix not in (".pyc", ".pyo") and "__pycache__" not in path.parts and path.is_file():
            yield path.relative_to(root)
