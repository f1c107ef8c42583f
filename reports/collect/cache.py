"""What a report has read before, kept in the user's cache folder so that unchanged runs are not read again.

A cache belongs to one folder of runs. It is a set of segments, each the runs that one collection had to
read: three or ten changed runs add a small segment, and a run's newest row counts. Whatever cannot be read
is thrown away and read anew from the records, so a cache is never repaired and may be deleted at any time.
"""

import hashlib
import json
import os
import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from reports.collect.finder import Signature
from reports.collect.measurements import CURVES, PROBES
from reports.collect.tables import RUNS, STARTS, Tables
from suite.experiment import Run
from suite.paths import cache_home
from suite.record import SCHEMA_VERSION

# Of what a digest means. One with other columns is noticed by itself.
VERSION = 2
SIGNATURE = pa.schema(
    [("path", pa.string()), ("signature", pa.list_(pa.int64())), ("is_settled", pa.bool_())]
)
_PARTS = {"runs": RUNS, "starts": STARTS, "curves": CURVES, "probes": PROBES, "seen": SIGNATURE}
_KEEP_DAYS = 60
_MAX_SEGMENTS = 12


def cache_folder() -> Path | None:
    """`$XDG_CACHE_HOME/shiftbench`, else `~/.cache/shiftbench`; None, for no cache, without a home."""
    home = cache_home()
    return None if home is None else home / "shiftbench"


@dataclass(frozen=True)
class Segment:
    """Runs that were read together: `paths` and `signatures` row by row; unsettled ones are read again."""

    tables: Tables
    paths: list[str]
    signatures: list[Signature]
    is_settled: list[bool]

    def keep(self, rows: list[int]) -> "Segment":
        """These rows alone."""
        return Segment(
            self.tables.keep(np.array(rows, dtype=np.int64)),
            [self.paths[row] for row in rows],
            [self.signatures[row] for row in rows],
            [self.is_settled[row] for row in rows],
        )


class Cache:
    """The segments of one folder of runs."""

    def __init__(self, root: str, below: Path) -> None:
        # A run that gains a field has it in rows that are read from then on: older ones are of no use.
        fields = json.dumps(Run.model_json_schema(), sort_keys=True)
        text = f"{VERSION} {SCHEMA_VERSION} {fields} {root}"
        name = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self.folder = below / "collected" / name

    def load(self) -> list[Segment]:
        """Oldest first. A damaged one, or one of another version, is removed."""
        found = []
        for path in sorted(self.folder.glob("*-*")):
            try:
                found.append(_read(path))
            except (OSError, pa.ArrowInvalid, ValueError, KeyError):
                shutil.rmtree(path, ignore_errors=True)
        return found

    def add(self, segment: Segment) -> None:
        """Keep what was read. A cache that cannot be written costs the next report its time, and no more."""
        draft = self.folder / f".{uuid.uuid4().hex}"
        try:
            draft.mkdir(parents=True)
            for name, table in (segment.tables.parts() | {"seen": _seen(segment)}).items():
                with (
                    pa.OSFile(str(draft / f"{name}.arrow"), "wb") as file,
                    pa.ipc.new_file(file, table.schema) as out,
                ):
                    out.write_table(table.combine_chunks())
            draft.rename(self.folder / f"{time.time_ns():020d}-{draft.name[1:9]}")
        except (OSError, pa.ArrowInvalid):
            shutil.rmtree(draft, ignore_errors=True)

    def replace_all(self, segment: Segment) -> None:
        """One segment in place of many."""
        old = sorted(self.folder.glob("*-*"))
        self.add(segment)
        if sorted(self.folder.glob("*-*")) != old:
            for path in old:
                shutil.rmtree(path, ignore_errors=True)

    @staticmethod
    def is_scattered(segments: list[Segment], num_runs: int) -> bool:
        """Whether many segments, or mostly rows that no longer count, are worth a tidy one."""
        rows = sum(len(segment.paths) for segment in segments)
        return len(segments) > _MAX_SEGMENTS or rows > 2 * num_runs + 100

    def touch(self) -> None:
        """Note that this cache is in use, where it is there and this user's."""
        with suppress(OSError):
            os.utime(self.folder)


def forget_old(below: Path) -> None:
    """Remove caches that no report has used for a long time."""
    limit = time.time() - _KEEP_DAYS * 86400
    for folder in (below / "collected").glob("*"):
        try:
            if folder.stat().st_mtime < limit:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # another report removes it too
            continue


def _read(path: Path) -> Segment:
    parts = {}
    for name, schema in _PARTS.items():
        with pa.memory_map(str(path / f"{name}.arrow")) as file:
            parts[name] = pa.ipc.open_file(file).read_all()
        if not parts[name].schema.equals(schema):
            raise ValueError(f"{path}: other columns")
    seen = parts.pop("seen")
    signatures = seen["signature"].combine_chunks().flatten().to_numpy().reshape(seen.num_rows, -1)
    return Segment(
        Tables(**parts),
        seen["path"].to_pylist(),
        [tuple(one) for one in signatures.tolist()],
        seen["is_settled"].to_pylist(),
    )


def _seen(segment: Segment) -> pa.Table:
    columns = (segment.paths, [list(one) for one in segment.signatures], segment.is_settled)
    return pa.Table.from_pydict(dict(zip(SIGNATURE.names, columns, strict=True)), SIGNATURE)
