"""Run folders to columns of numbers. What cannot be read is named and kept beside them, never dropped."""

import gc
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from reports.collect.cache import Cache, Segment, cache_folder, forget_old
from reports.collect.digest import digest
from reports.collect.finder import Signature, find, look_at
from reports.collect.tables import Gatherer, Tables, joined
from suite.errors import UserError
from suite.files import read_whole
from suite.record import Record

__all__ = ["Collection", "Skipped", "cache_folder", "collect", "collect_folders"]

# A file that changed this shortly before it was read may change again within the same tick of its clock.
_TICK_NS = 2_000_000_000
# So long after a failure other ranks may still write the reason below the run's folder.
_LAST_WORDS_NS = 3_600_000_000_000
T = TypeVar("T")


@dataclass(frozen=True)
class Skipped:
    """A folder with a run.json that no run could be made of."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class Collection:
    """Everything found below the given folders. `num_read`: how many runs were not known from before."""

    parts: list[Tables]
    skipped: list[Skipped]
    num_read: int

    @property
    def num_runs(self) -> int:
        return sum(part.runs.num_rows for part in self.parts)

    @cached_property
    def tables(self) -> Tables:
        """All of it, in the order of the folders' names, whatever was read when."""
        tables = joined(self.parts)
        order = sorted(range(tables.runs.num_rows), key=tables.runs["folder"].to_pylist().__getitem__)
        return tables.keep(np.array(order, dtype=np.int64))


def collect(roots: Sequence[Path], cache: Path | None = None) -> Collection:
    """Read every run at or below `roots`, in the order of their folders' names.

    `cache`: a folder in which to keep what was read; runs that have not changed since are taken from there.
    Raises UserError when a root is no folder, when there is no run, or when not one run can be read.
    """
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; expected one that holds runs")
    found = _collect_all([(root, None) for root in roots], cache)
    if cache is not None:
        forget_old(cache)
    return found


def collect_folders(folders: Sequence[Path], cache: Path | None = None) -> Collection:
    """Read these run folders and no others. `cache`: as for `collect`, and that of the folder around them.

    Raises UserError when not one can be read.
    """
    around: dict[Path, list[str]] = {}
    for folder in folders:
        around.setdefault(folder.parent, []).append(folder.name)
    return _collect_all(list(around.items()), cache)


def _collect_all(places: Sequence[tuple[Path, Sequence[str] | None]], cache: Path | None) -> Collection:
    """Read the runs below each folder; with names, only the run folders in it that have them."""
    skipped: list[Skipped] = []
    seen: set[str] = set()
    if cache is None:
        found = [
            (root / path, path, now)
            for root, names in places
            for path, now in _find(root, {}, seen, skipped, names).items()
        ]
        read = _read_all(found, skipped)
        collection = Collection([read.tables], skipped, len(read.paths))
    else:
        parts = [
            _collect(root, Cache(os.path.realpath(root), cache), seen, skipped, names)
            for root, names in places
        ]
        collection = Collection([t for one, _ in parts for t in one], skipped, sum(n for _, n in parts))
    return _checked(collection, ", ".join(str(root) for root, _ in places))


def _checked(found: Collection, where: str) -> Collection:
    if not found.num_runs and found.skipped:
        more = f" (and {len(found.skipped) - 1} more like it)" if len(found.skipped) > 1 else ""
        raise UserError(f"no readable run below {where}: {found.skipped[0].reason}{more}")
    if not found.num_runs:
        raise UserError(f"no runs found below {where}; expected folders with a run.json")
    return found


def _find(
    root: Path,
    known: Mapping[str, Signature],
    seen: set[str],
    skipped: list[Skipped],
    names: Sequence[str] | None,
) -> dict[str, Signature]:
    """Paths of the run folders below one root, or of those with these names, each real folder once."""
    trouble: list[tuple[str, OSError]] = []
    everything = find(os.path.realpath(root), known, seen, trouble)
    found = dict(everything if names is None else look_at(root, names, seen, trouble))
    skipped += [Skipped(Path(f), f"{f}: cannot be listed: {error.strerror}") for f, error in trouble]
    return found


def _collect(
    root: Path, cache: Cache, seen: set[str], skipped: list[Skipped], names: Sequence[str] | None
) -> tuple[list[Tables], int]:
    """The runs of one root, from its cache where they have not changed, and how many were read now.

    `names`: of the only folders to look at; what the cache has of others stays in it.
    """
    segments = cache.load()
    newest = {path: (segment, row) for segment in segments for row, path in enumerate(segment.paths)}
    known = {path: segment.signatures[row] for path, (segment, row) in newest.items()}
    found = _find(root, known, seen, skipped, names)
    changed = []
    for path, now in found.items():
        if known.get(path) != now or not newest[path][0].is_settled[newest[path][1]]:
            changed.append((root / path, path, now))
            newest.pop(path, None)
    fresh = _read_all(changed, skipped)
    newest |= {path: (fresh, row) for row, path in enumerate(fresh.paths)}
    kept = _chosen([*segments, fresh], {path: newest[path] for path in found if path in newest})
    if names is None and cache.is_scattered(segments, sum(len(one.paths) for one in kept)):
        cache.replace_all(_as_one(kept))
    elif fresh.paths:
        cache.add(fresh)
    cache.touch()
    return [_placed(one, root) for one in kept], len(fresh.paths)


def _placed(segment: Segment, root: Path) -> Tables:
    """With the runs' folders as they are called today: a root may go by another name."""
    prefix = str(root)
    folders = pa.array([f"{prefix}/{path}" if path else prefix for path in segment.paths], pa.string())
    place = segment.tables.runs.schema.get_field_index("folder")
    return replace(segment.tables, runs=segment.tables.runs.set_column(place, "folder", folders))


def _read_all(changed: list[tuple[Path, str, Signature]], skipped: list[Skipped]) -> Segment:
    """Read these folders; what cannot be read goes to `skipped`, and is tried again next time."""
    gatherer = Gatherer()
    paths: list[str] = []
    signatures: list[Signature] = []
    is_settled: list[bool] = []
    for folder, path, before in _without_garbage_collection(sorted(changed)):
        begun_ns = time.time_ns()
        try:
            record, row, starts, data = _read(folder)
        except UserError as error:
            skipped.append(Skipped(folder, str(error)))
            continue
        gatherer.add(row, starts, data, len(record.layers))
        paths.append(path)
        signatures.append(before)
        # The files do not say whether a running one is alive.
        is_still = begun_ns - max(before[:-1]) > (_LAST_WORDS_NS if record.state == "failed" else _TICK_NS)
        is_settled.append(is_still and record.state != "running" and not record.died_silently)
    return Segment(gatherer.tables(), paths, signatures, is_settled)


def _without_garbage_collection(items: Iterable[T]) -> Iterator[T]:
    """Thousands of small objects are made here, no two of which refer to one another."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield from items
    finally:
        if was_enabled:
            gc.enable()


def _chosen(segments: Sequence[Segment], chosen: Mapping[str, tuple[Segment, int]]) -> list[Segment]:
    """Of each segment the rows that count."""
    rows: dict[int, list[int]] = {id(segment): [] for segment in segments}
    for segment, row in chosen.values():
        rows[id(segment)].append(row)
    return [segment.keep(sorted(mine)) for segment in segments if (mine := rows[id(segment)])]


def _as_one(segments: Sequence[Segment]) -> Segment:
    return Segment(
        joined([segment.tables for segment in segments]),
        [path for segment in segments for path in segment.paths],
        [one for segment in segments for one in segment.signatures],
        [one for segment in segments for one in segment.is_settled],
    )


def _read(folder: Path) -> tuple[Record, dict[str, Any], list[dict[str, Any]], bytes]:
    try:
        record = Record.read(folder, with_measurements=False)
        row, starts = digest(record)
        row["notes"] = f"{n} damaged lines left out" if (n := record.damaged_lines) else ""
        return record, row, starts, read_whole(record.paths.measurements) or b""
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{folder}: run.json is not a run of this version: {key}: {first['msg']}") from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
    except (TypeError, AttributeError, KeyError, ValueError, OverflowError):
        raise UserError(
            f"{folder}: run.json, status.json or layers.json is not as shiftbench writes it"
        ) from None
