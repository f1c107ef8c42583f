"""Folders that only their owner can write to, because jobs execute what is in them."""

import os
import stat
from pathlib import Path

from suite.errors import UserError


def private_folder(path: Path) -> Path:
    """Create `path` if it is missing, private to its owner, and return it resolved.

    Raises UserError when others can write to it, or replace it through a folder above.
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
    """Return a sentence about the first folder, of `path` and its parents, where others can replace files.

    In a sticky folder, such as /tmp, users cannot replace each other's files. `makes_in_it`: whether `path`
    itself may be sticky because a new folder will be made in it.
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
