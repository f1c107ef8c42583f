"""The ledger of an output folder: which run was submitted as which job. One JSON file for each submission.

<output_dir>/.shiftbench/
  submissions/<token>.json   who submitted which runs where; the job's id once the scheduler has given it
  lock                       held during a submission into this folder
  <user>/                    private to that user: pickles, scripts and logs of jobs, snapshots of the sources
"""

import getpass
import json
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jobs.checks import writing
from suite.config_file import expand_path
from suite.errors import UserError
from suite.files import NoLocks, is_locked, locked, read_json, write_atomically

FOLDER = ".shiftbench"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Submission:
    """One call of a scheduler: the runs of one job or array, in the order of the array's numbers."""

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


def new_submission(
    experiment: str,
    cluster: dict[str, Any],
    jobs_folder: Path,
    snapshot: Path,
    folders: Sequence[str],
    driver: str | None = None,
) -> Submission:
    """Return an entry for runs that are about to be submitted."""
    token = secrets.token_hex(4)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", experiment)[:40].strip("-") or "shiftbench"
    return Submission(
        token=token,
        name=f"{plain}-{token}",
        cluster=cluster,
        user=getpass.getuser(),
        host=socket.gethostname(),
        submitted_at=time.time(),
        jobs_folder=str(jobs_folder),
        snapshot=str(snapshot),
        folders=tuple(folders),
        driver=driver,
    )


class Ledger:
    """The submissions of one output folder. Reading creates nothing."""

    def __init__(self, output_dir: Path) -> None:
        self.output_dir = output_dir
        self.folder = output_dir / FOLDER / "submissions"
        self._lock = output_dir / FOLDER / "lock"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder's lock, after waiting for it. Raises UserError if it cannot be locked."""
        try:
            with writing(self._lock):
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock.touch()
                self._share()  # before waiting, so that others of the group can wait too
            lock = locked(self._lock, wait=True)
        except NoLocks as error:
            raise UserError(
                f"{self.output_dir}: this file system has no locks ({error.strerror}); choose an output "
                "folder on one that has (Lustre: mounted with -o flock)"
            ) from None
        with lock:
            yield

    def _share(self) -> None:
        """Let the group of the output folder submit too, if it can write there; .shiftbench stays private."""
        shared = self.output_dir.stat()
        for path in (self.folder, self._lock):
            status = path.stat()
            if shared.st_mode & stat.S_IWGRP and status.st_uid == os.getuid():
                with suppress(PermissionError):  # this user is not in that group
                    os.chown(path, -1, shared.st_gid)
                    path.chmod(stat.S_IMODE(status.st_mode) | stat.S_IWGRP)

    def is_held(self) -> bool:
        """Return whether a submission into this folder is under way."""
        return bool(is_locked(self._lock))

    def is_ours(self, submission: Submission) -> bool:
        """Return whether only this user can have written an entry, so that it may be executed."""
        try:
            status = self._entry(submission).stat()
        except FileNotFoundError:  # removed meanwhile
            return False
        return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)

    def read(self) -> list[Submission]:
        """Return all submissions, oldest first. Raises UserError for an entry that is invalid or newer."""
        found = []
        for path in self.folder.glob("*.json"):
            content = read_json(path)
            if not isinstance(content, dict):
                continue  # removed between listing and reading
            if content.get("token") != path.stem:  # a copy would pass for an entry of the file's owner
                raise UserError(f"{path}: not an entry of this name; remove it")
            if content.get("schema_version", 0) > SCHEMA_VERSION:
                raise UserError(f"{path}: written by a newer shiftbench; upgrade")
            one = Submission(**{**content, "folders": tuple(content["folders"])})
            # It reaches command lines.
            if one.job_id is not None and not re.fullmatch(r"\d+(@\d+)?", one.job_id):
                raise UserError(f"{path}: job_id {one.job_id!r} is not a job's id")
            found.append(one)
        return sorted(found, key=lambda submission: submission.submitted_at)

    def write(self, submission: Submission) -> None:
        """Add or replace an entry."""
        path = self._entry(submission)
        former = os.umask(0o022)  # everyone may read it, only this user may write it
        try:
            with writing(path):
                write_atomically(path, json.dumps(asdict(submission), indent=1) + "\n")
                path.chmod(0o644)  # also where the folder's default ACL allows more
        finally:
            os.umask(former)

    def accepted(self, submission: Submission, job_id: str) -> Submission:
        """Enter the id that the scheduler gave, and return the new entry."""
        submission = replace(submission, job_id=job_id)
        self.write(submission)
        return submission

    def drop(self, submission: Submission) -> None:
        """Remove an entry that the scheduler refused."""
        self._entry(submission).unlink(missing_ok=True)

    def _entry(self, submission: Submission) -> Path:
        return self.folder / f"{submission.token}.json"


def jobs_folder(output_dir: Path, wanted: str | None) -> Path:
    """Create the private folder for a user's pickles, logs and snapshots, and return it. Raises UserError."""
    return private_folder(where_jobs_lie(output_dir, wanted))


def where_jobs_lie(output_dir: Path, wanted: str | None) -> Path:
    """Return that folder: `wanted`, or beside the runs if only this user can write there, or at home."""
    if wanted is not None:
        return expand_path(wanted, "jobs_folder").resolve()
    beside = output_dir.resolve() / FOLDER  # a link could be changed while jobs wait
    there = next(path for path in (beside, *beside.parents) if path.exists())
    if there.is_dir() and who_else_can_write(there, makes_in_it=there != beside) is None:
        return beside / getpass.getuser()
    return Path.home().resolve() / FOLDER


def private_folder(path: Path) -> Path:
    """Create a folder for what jobs execute, and return it resolved. Raises UserError if others can write."""
    try:
        path.mkdir(parents=True, mode=0o700, exist_ok=True)
        obstacle = who_else_can_write(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be a folder for jobs: {error.strerror}") from None
    if obstacle:
        raise UserError(
            f"{obstacle}, so others could replace what your jobs execute; set jobs_folder to a folder that "
            "only you can write, such as ~/.shiftbench"
        )
    return path.resolve()


def who_else_can_write(path: Path, *, makes_in_it: bool = False) -> str | None:
    """Return a sentence about the first folder, of `path` and its parents, where others can replace files.

    They cannot in a sticky folder, such as /tmp. `makes_in_it`: whether `path` itself may be sticky.
    """
    resolved = path.resolve(strict=True)
    for folder in (resolved, *resolved.parents):
        status = folder.stat()
        if status.st_uid not in (0, os.getuid()):
            return f"{folder} belongs to another user"
        is_shared = bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
        is_sticky = bool(status.st_mode & stat.S_ISVTX) and (folder != resolved or makes_in_it)
        if is_shared and not is_sticky:
            return f"{folder} can be written by others ({stat.filemode(status.st_mode)})"
    return None
