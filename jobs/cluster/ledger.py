"""The ledger of an output folder: which run was submitted as which job. One JSON file for each submission.

<output_dir>/.shiftbench/
  submissions/<token>.json   who submitted which runs where; the job's id once the scheduler has given it
  lock                       held during a submission into this folder
  <user>/                    private to that user: pickles, scripts and logs of jobs, snapshots of the sources
"""

import json
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from jobs.checks import writing
from jobs.cluster.submission import BadEntry, Submission, parse_entry
from suite.errors import UserError
from suite.files import NoLocks, is_locked, locked, read_whole, write_atomically
from suite.user import expand_path, home_or_none, user_name

__all__ = ["BadEntry", "Ledger", "Submission", "jobs_folder", "new_submission", "private_folder"]
__all__ += ["FOLDER", "where_jobs_lie", "who_else_can_write"]

FOLDER = ".shiftbench"
# Between two entries: more than the resolution of a float that counts seconds since 1970.
STEP_S = 1e-3


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
        user=user_name(),
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
                self.output_dir.mkdir(parents=True, exist_ok=True)
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock.touch()
                self._share()  # before waiting, so that others of the group can wait too
            lock = locked(self._lock, wait=True)
        except NoLocks as error:
            raise UserError(error.sentence(self.output_dir)) from None
        except OSError as error:
            raise UserError(f"{self._lock}: cannot be written: {error.strerror}") from None
        with lock:
            yield

    def _share(self) -> None:
        """Give all who can read the output folder access to the ledger, and its group the right to submit.

        Whatever the umask. Only `.shiftbench` itself is not writable by others, who could replace what jobs
        execute.
        """
        shared = self.output_dir.stat()
        readable = shared.st_mode & (stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
        writable = shared.st_mode & stat.S_IWGRP
        for path, wanted in (
            (self.folder.parent, stat.S_IRWXU | readable),
            (self.folder, stat.S_IRWXU | readable | writable),
            (self._lock, (0o600 | readable | writable) & 0o666),
        ):
            status = path.stat()
            if status.st_uid == os.getuid():
                with suppress(PermissionError):  # this user is not in that group
                    if writable and status.st_gid != shared.st_gid:
                        os.chown(path, -1, shared.st_gid)
                    if (mode := stat.S_IMODE(status.st_mode)) | wanted != mode:
                        path.chmod(mode | wanted)

    def is_held(self) -> bool:
        """Return whether a submission into this folder is under way."""
        return bool(is_locked(self._lock))

    def is_ours(self, submission: Submission) -> bool:
        """Return whether only this user can have written an entry, so that it may be executed."""
        try:
            status = self._entry(submission).stat()
        except OSError:  # removed meanwhile, or in a folder that this user cannot enter
            return False
        return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)

    def read(self) -> list[Submission]:
        """Return all submissions that can be used, in the order in which they were made."""
        return self.scan()[0]

    def scan(self) -> tuple[list[Submission], list[BadEntry]]:
        """Return all submissions, the oldest first, and what is wrong with the other entries."""
        found: list[Submission] = []
        bad: list[BadEntry] = []
        try:
            files = sorted(path for path in self.folder.iterdir() if path.suffix == ".json")
        except FileNotFoundError:
            return [], []
        except OSError as error:
            return [], [BadEntry("", f"{self.folder}: cannot be read: {error.strerror}")]
        for path in files:
            try:
                data = read_whole(path)
            except OSError as error:
                bad.append(BadEntry(path.stem, f"{path}: cannot be read: {error.strerror}"))
                continue
            if data is None:
                continue  # removed between listing and reading
            entry = parse_entry(data, path)
            if isinstance(entry, BadEntry):
                bad.append(entry)
            else:
                found.append(entry)
        return sorted(found, key=lambda submission: submission.submitted_at), bad

    def write(self, submission: Submission) -> Submission:
        """Add or replace an entry. A new one comes after all others, whatever the clocks say; returns it."""
        path = self._entry(submission)
        former = os.umask(0o022)  # everyone may read it, only this user may write it
        try:
            with writing(path):
                if not path.exists():
                    last = max((one.submitted_at for one in self.read()), default=-STEP_S)
                    submission = replace(submission, submitted_at=max(submission.submitted_at, last + STEP_S))
                write_atomically(path, json.dumps(asdict(submission), indent=1) + "\n")
                path.chmod(0o644)  # also where the folder's default ACL allows more
        finally:
            os.umask(former)
        return submission

    def written_s_ago(self, submission: Submission) -> float:
        """Return how long ago an entry was written by this machine, by the clock of its file system."""
        try:
            return time.time() - self._entry(submission).stat().st_mtime
        except OSError:
            return float("inf")

    def accepted(self, submission: Submission, job_id: str) -> Submission:
        """Enter the id that the scheduler gave, and return the new entry."""
        return self.write(replace(submission, job_id=job_id))

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
        return beside / user_name()
    if (home := home_or_none()) is None:
        raise UserError(
            f"{output_dir}: others can write there, and there is no home folder for jobs (no HOME, no entry "
            "in passwd): set jobs_folder in the cluster's file"
        )
    return home.resolve() / FOLDER


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
