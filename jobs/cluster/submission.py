"""An entry of the ledger: one call of a scheduler, and how its file is read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suite.files import parse_json
from suite.record.shapes import (
    COUNT,
    FILE_NAME,
    NUMBER,
    OBJECT,
    TEXT,
    Shape,
    fault_in,
    known,
    list_of,
    matching,
)

SCHEMA_VERSION = 1
_NAME = matching("a name of letters, digits, dots and dashes", r"[A-Za-z0-9._-]{1,200}")
_JOB = matching("a job's id", r"\d{1,20}(@\d{1,20})?")
_PATH = matching("a path", r"[^\0]{0,4000}")
# Names and ids reach command lines.
_SHAPES: dict[str, Shape] = {
    "token": _NAME.required(),
    "name": _NAME.required(),
    "cluster": OBJECT.required(),
    "user": TEXT.required(),
    "host": TEXT.required(),
    "submitted_at": NUMBER.required(),
    "jobs_folder": _PATH.required(),
    "snapshot": _PATH.required(),
    "folders": list_of(FILE_NAME).required(),
    "job_id": _JOB.or_null(),
    "driver": TEXT.or_null(),
    "schema_version": COUNT,
}


@dataclass(frozen=True)
class Submission:
    """One call of a scheduler: the runs of one job or array, in the order of the array's numbers.

    `submitted_at`: seconds since 1970, but later than that of every earlier submission of the folder,
    whatever the clocks of two login machines say.
    """

    token: str
    name: str
    cluster: dict[str, Any]
    user: str
    host: str
    submitted_at: float
    jobs_folder: str
    snapshot: str
    folders: tuple[str, ...]
    job_id: str | None = None
    driver: str | None = None  # the study whose driver submitted it and may cancel it
    schema_version: int = SCHEMA_VERSION

    @property
    def scheduler(self) -> str:
        return str(self.cluster.get("scheduler"))

    @property
    def folder(self) -> Path:
        """Where the scripts, pickles and logs of its jobs are."""
        return Path(self.jobs_folder) / self.name


@dataclass(frozen=True)
class BadEntry:
    """An entry that cannot be used: why, and the run folders that it names as far as that can be read."""

    token: str
    sentence: str
    folders: frozenset[str] = frozenset()


def parse_entry(data: bytes, path: Path) -> Submission | BadEntry:
    """Return the submission of an entry's file, or what is wrong with the entry."""
    content = parse_json(data)
    if fault := _fault_in(content, path):
        return BadEntry(path.stem, f"{path}: {fault}", _folders_in(content))
    return Submission(**known(content, _SHAPES) | {"folders": tuple(content["folders"])})


def _fault_in(content: Any, path: Path) -> str | None:
    """Return what is wrong with an entry, and what would be right."""
    if isinstance(content, dict):
        version = content.get("schema_version", 0)
        if COUNT.fits(version) and version > SCHEMA_VERSION:
            return "written by a newer shiftbench; upgrade"
        if content.get("token") != path.stem:  # a copy would pass for an entry of the file's owner
            return "not an entry of this name; remove it"
    fault = fault_in(content, _SHAPES)
    return (
        f"not as shiftbench writes it: {fault}; correct it, or remove it once its job has ended"
        if fault
        else None
    )


def _folders_in(content: Any) -> frozenset[str]:
    folders = content.get("folders") if isinstance(content, dict) else None
    return frozenset(filter(FILE_NAME.fits, folders)) if isinstance(folders, list) else frozenset()
