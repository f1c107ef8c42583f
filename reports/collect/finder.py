"""Which run folders there are, and whether they have changed since they were last read."""

import os
from collections.abc import Iterator, Mapping

Signature = tuple[int, ...]
# What a writer touches: the folder, in which small files are replaced, and what is appended to or edited.
_WATCHED = ("/status.json", "/measurements.jsonl")


def signature(folder: str) -> Signature:
    """Times of change in nanoseconds, and the length of the measurements. Raises FileNotFoundError."""
    times = [os.stat(folder).st_mtime_ns]  # noqa: PTH116 - of ten thousand folders, without making paths
    size = 0
    for name in _WATCHED:
        try:
            found = os.stat(folder + name)  # noqa: PTH116
        except FileNotFoundError:
            times.append(0)
        else:
            times.append(found.st_mtime_ns)
            size = found.st_size if name == "/measurements.jsonl" else size
    return (*times, size)


def find(
    root: str, known: Mapping[str, Signature], trouble: list[tuple[str, OSError]]
) -> Iterator[tuple[str, Signature]]:
    """Paths below `root` ("" for itself) of the folders that hold a run, with their signatures.

    A known folder whose own time has not changed still holds one, and is not listed again. Links are not
    followed, and nothing below a run is one. A folder that cannot be listed goes to `trouble`.
    """
    waiting = [""]
    while waiting:
        below = waiting.pop()
        folder = f"{root}/{below}" if below else root
        try:
            if below in known and (now := signature(folder))[0] == known[below][0]:
                yield below, now
                continue
            deeper: list[str] = []
            if _list(folder, below, deeper):
                yield below, signature(folder)
            else:
                waiting += deeper
        except FileNotFoundError:  # removed under our eyes
            continue
        except OSError as error:
            trouble.append((folder, error))


def _list(folder: str, below: str, deeper: list[str]) -> bool:
    """Whether a folder holds a run; else its own folders go to `deeper`."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name == "run.json":
                return True
            if entry.is_dir(follow_symlinks=False):
                deeper.append(f"{below}/{entry.name}" if below else entry.name)
    return False
