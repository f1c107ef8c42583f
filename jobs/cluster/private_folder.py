"""Folders that only their owner can write: what lies there is executed by jobs."""

import os
import stat
from pathlib import Path

from suite.errors import UserError


def private_folder(path: Path) -> Path:
    """Make `path`, if it is missing, for its owner alone, and see that nobody else can put files there.

    Raises UserError when others could write it, or replace it by way of a folder above.
    """
    try:
        path.mkdir(parents=True, mode=0o700, exist_ok=True)
        obstacle = who_else_can_write(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be a folder for jobs: {error.strerror}") from None
    if obstacle:
        raise UserError(
            f"{obstacle}, so others could replace what your jobs execute; set jobs_folder in the cluster's "
            "file to a folder that only you can write, such as ~/.shiftbench"
        )
    return path.resolve()


def who_else_can_write(path: Path, *, makes_in_it: bool = False) -> str | None:
    """A sentence about the first folder, of `path` and those above, where others can replace files.

    A sticky folder, such as /tmp, lets nobody replace what is another's, so one may make folders in it.
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
