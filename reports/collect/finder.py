"""Which run folders there are, and whether they have changed since they were last read."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from suite.paths import walk_runs

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
    root: str, known: Mapping[str, Signature], seen: set[str], trouble: list[tuple[str, OSError]]
) -> Iterator[tuple[str, Signature]]:
    """Paths below `root` ("" for itself) of the folders that hold a run, with their signatures.

    A known folder whose own time has not changed still holds one, and is not listed again. A folder that
    cannot be listed goes to `trouble`. Links and `seen`: see `walk_runs`.
    """
    newest: dict[str, Signature] = {}

    def is_known(below: str) -> bool:
        if below not in known:
            return False
        newest[below] = signature(_folder(root, below))
        return newest[below][0] == known[below][0]

    for below in walk_runs(root, seen, is_known, lambda folder, error: trouble.append((folder, error))):
        try:
            yield below, newest.get(below) or signature(_folder(root, below))
        except FileNotFoundError:  # removed meanwhile
            continue
        except OSError as error:
            trouble.append((_folder(root, below), error))


def look_at(
    root: Path, names: Sequence[str], seen: set[str], trouble: list[tuple[str, OSError]]
) -> Iterator[tuple[str, Signature]]:
    """`find` for the run folders in `root` with these names alone; one that is gone is left out."""
    for name in names:
        place = os.path.realpath(root / name)
        if place in seen:
            continue
        seen.add(place)
        try:
            yield name, signature(place)
        except FileNotFoundError:  # removed meanwhile
            continue
        except OSError as error:
            trouble.append((str(root / name), error))


def _folder(root: str, below: str) -> str:
    return f"{root}/{below}" if below else root
