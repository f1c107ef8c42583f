"""Files that are whole or not there: atomic writes, appended lines, the lock."""

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

from suite.paths import RunPaths

SCHEMA_VERSION = 1


def write_atomically(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Write to a temporary name beside `path`, flush to disk, rename. Readers see the old or the new file.

    `durable`: false leaves the flushing to the system, for what can be made again.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """One write of one whole line, so that a reader or a crash can cut only the last one."""
    with path.open("ab", buffering=0) as file:
        data = (line + "\n").encode()
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def read_json(path: Path) -> Any:
    """The content, or None when the file is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def read_lines(path: Path, keys: tuple[str, ...]) -> tuple[list[dict[str, Any]], int]:
    """The complete lines of a file that are JSON objects with these keys, and how many others there are."""
    lines: list[dict[str, Any]] = []
    damaged = 0
    if path.exists():
        for text in path.read_bytes().split(b"\n"):
            if text.strip():
                try:
                    line = json.loads(text)
                except (json.JSONDecodeError, UnicodeDecodeError):
                    line = None
                if isinstance(line, dict) and all(key in line for key in keys):
                    lines.append(line)
                else:
                    damaged += 1
    return lines, damaged


def is_locked(paths: RunPaths) -> bool | None:
    """Whether a live process writes this run; None where the file system has no locks to tell by."""
    try:
        with paths.lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False
