"""Files that are whole or not there: atomic writes, appended lines, the lock."""

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import orjson

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
    data = read_whole(path)
    return None if data is None else parse_json(data)


def read_whole(path: Path) -> bytes | None:
    """The content, or None when the file is missing."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - twice as quick for small files
            return file.readall()
    except FileNotFoundError:
        return None


def read_lines(path: Path, keys: tuple[str, ...]) -> tuple[list[dict[str, Any]], int]:
    """The complete lines of a file that are JSON objects with these keys, and how many others there are."""
    data = read_whole(path)
    return ([], 0) if data is None else parse_lines(data, keys)


def parse_lines(data: bytes, keys: tuple[str, ...]) -> tuple[list[dict[str, Any]], int]:
    """`read_lines` of what has been read."""
    texts = [text for text in data.split(b"\n") if text.strip()]
    try:
        # All at once is several times faster, and nearly always right.
        found = orjson.loads(b"[" + b",".join(texts) + b"]")
    except orjson.JSONDecodeError:
        found = [parse_json(text) for text in texts]
    if len(found) != len(texts):  # a line of two values
        found = [parse_json(text) for text in texts]
    lines = [line for line in found if isinstance(line, dict) and all(key in line for key in keys)]
    return lines, len(texts) - len(lines)


def parse_json(text: bytes) -> Any:
    """None for what is no JSON. A bare NaN, which JSON has not, is taken as Python writes it."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            return json.loads(text)
        except (json.JSONDecodeError, UnicodeDecodeError):
            return None


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
