"""Files that are whole or not there: atomic writes, appended lines, published folders, locks."""

import errno
import fcntl
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import orjson

FULL_BYTES = 2**16


class NoLocks(OSError):
    """The file system has no locks, or refuses one for another reason than that it is held."""

    def sentence(self, folder: Path) -> str:
        """Return what is wrong with an output folder there, and what would be right."""
        return (
            f"{folder}: this file system has no locks ({self.strerror}); choose an output folder on one that "
            "has (Lustre: mounted with -o flock; NFS: with a lock service, without nolock)"
        )


def write_atomically(path: Path, content: str | bytes | memoryview, *, durable: bool = True) -> None:
    """Write to a temporary name beside `path`, flush to disk, rename. Readers see the old or the new file.

    `durable=False` leaves the flushing to the system, for files that can be made again.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk names none
        raise
    finally:
        temporary.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """Append a line in a single write, so that a crash or a reader can cut only the last line short."""
    with path.open("ab", buffering=0) as file:
        data = (line + "\n").encode()
        try:
            written = file.write(data)
        except OSError as error:
            error.filename = error.filename or str(path)
            raise
        if written != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def file_age_s(path: Path) -> float:
    """Return the seconds since a file was written, both times by the clock of its file system; 0 or more.

    Zero if there is no such file.
    """
    with suppress(FileNotFoundError):
        written_s = path.stat().st_mtime
        with tempfile.TemporaryFile(dir=path.parent) as now:
            return max(0.0, os.fstat(now.fileno()).st_mtime - written_s)
    return 0.0


def is_full(place: Path) -> bool:
    """Return whether the file system of `place` has no room for a small file; False if not known."""
    with suppress(OSError):
        return shutil.disk_usage(place).free < FULL_BYTES
    return False


# ------------------------------------------------------------ reading


def read_json(path: Path) -> Any:
    """Return the content, or None when the file is missing or not JSON."""
    data = read_whole(path)
    return None if data is None else parse_json(data)


def read_whole(path: Path) -> bytes | None:
    """Return the content, or None when the file is missing."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - twice as quick for small files
            return file.readall()
    except FileNotFoundError:
        return None


def read_lines(path: Path, keys: tuple[str, ...]) -> tuple[list[dict[str, Any]], int]:
    """Return the lines of a file that are JSON objects with these keys, and the number of all others."""
    data = read_whole(path)
    return ([], 0) if data is None else parse_lines(data, keys)


def parse_lines(data: bytes, keys: tuple[str, ...]) -> tuple[list[dict[str, Any]], int]:
    """As `read_lines`, for content that has been read already."""
    texts = [text for text in data.split(b"\n") if text.strip()]
    try:
        # Parsing all lines at once is several times faster, and rarely fails.
        found = orjson.loads(b"[" + b",".join(texts) + b"]")
    except orjson.JSONDecodeError:
        found = None
    if found is None or len(found) != len(texts):  # a line holds two values
        found = [parse_json(text) for text in texts]
    lines = [line for line in found if isinstance(line, dict) and all(key in line for key in keys)]
    return lines, len(texts) - len(lines)


def parse_json(text: bytes) -> Any:
    """Return the value, or None when the text is not JSON. Accepts NaN as Python writes it."""
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(text)
    with suppress(ValueError, RecursionError):
        value = json.loads(text)
        json.dumps(
            value, ensure_ascii=False
        ).encode()  # half of a surrogate pair can be neither shown nor written
        return value
    return None


# ------------------------------------------------------------ folders that appear whole


@contextmanager
def draft_of(folder: Path) -> Iterator[Path]:
    """Make a hidden folder beside `folder` to work in; remove it at the end unless it was published."""
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def publish_folder(draft: Path, folder: Path) -> bool:
    """Rename `draft` to `folder`, so that it appears whole or not at all.

    Returns False, and leaves both as they are, when `folder` exists with something in it: another process
    was faster. Raises OSError when the file system refuses.
    """
    try:
        draft.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        return False
    return True


# ------------------------------------------------------------ locks

_held = weakref.WeakSet[IO[str]]()


def _close_copies_in_fork() -> None:
    """Close what a fork inherited: it would hold its parent's locks after the parent has ended."""
    for file in list(_held):
        file.close()


os.register_at_fork(after_in_child=_close_copies_in_fork)


def locked(path: Path, *, wait: bool, shared: bool = False) -> IO[str]:
    """Take the lock of `path`, which is created if missing. Use the result with `with`.

    It is exclusive, or `shared` with others that take it so.
    The lock is released when the returned file is closed, or when the process ends in any way; forks of the
    process do not have it. Raises
    BlockingIOError when another process holds the lock and `wait` is false, NoLocks when the file system
    has none, and another OSError when the file cannot be opened for writing.
    """
    file = path.open("a+")  # NFSv4 gives shared locks only to readers
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
    except BaseException as error:
        file.close()
        if isinstance(error, OSError) and not isinstance(error, BlockingIOError):
            raise NoLocks(error.errno, error.strerror, str(path)) from None
        raise
    _held.add(file)
    return file


def is_locked(path: Path) -> bool | None:
    """Return whether a live process holds the lock of `path`; None when the file system has no locks."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False
