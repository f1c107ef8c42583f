"""What was run, where and with which code: the header, the warnings and the provenance tables."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reports.collect import Collection
from reports.frames import Frames
from reports.numbers import EMPTY, plural
from reports.run_list import WORST_FIRST
from reports.table import MAX_NAMES, MAX_ROWS, Column, Table, listed
from suite.metrics import METRICS
from suite.record import Record


@dataclass(frozen=True)
class Overview:
    """The header of a report."""

    title: str
    counts: list[tuple[str, int]]
    period: str


BATCH_AXES = ["global_batch_size", "batch_size_per_gpu", "norm_batch_size"]


def overview(collection: Collection, frames: Frames) -> Overview:
    """Names of the experiments, runs by state, and when they ran (UTC)."""
    counted = frames.runs[frames.runs.counted]
    states = counted.state.value_counts()
    counts = [(state, int(states[state])) for state in reversed(WORST_FIRST) if state in states]
    if collection.skipped:
        counts.append(("unreadable", len(collection.skipped)))
    starts = [line.get("started_at") for r in collection.records for line in r.provenance]
    times = sorted(_date(t) for t in starts if isinstance(t, int | float))
    period = "" if not times else times[0] if times[0] == times[-1] else f"{times[0]} to {times[-1]}"
    return Overview(listed(sorted(counted.experiment.unique())), counts, period)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def command_line(roots: Sequence[Path], out: Path | None) -> str:
    """What makes this report again, to be typed where it was typed first; empty when nothing was."""
    return shlex.join(["shiftbench", "report", *map(str, roots), "--out", str(out)]) if out else ""


def provenance_tables(records: Sequence[Record]) -> list[Table]:
    """Code, hardware and package versions, each with the number of runs behind it."""
    lines = [(number, line) for number, record in enumerate(records) for line in record.provenance]
    code = _counted({(number, _code(line)) for number, line in lines})
    hardware = _counted({(number, _hardware(line)) for number, line in lines})
    versions = _counted(
        {
            (number, (str(name), str(version)))
            for number, line in lines
            for name, version in _mapping(line.get("versions")).items()
        }
    )
    runs = Column("Runs")
    tables = [
        Table("Code", [Column("Git SHA", False), Column("Working tree", False), runs], code),
        Table("Hardware", [Column("Device", False), Column("Ranks"), Column("Hosts", False), runs], hardware),
        Table("Versions", [Column("Package", False), Column("Version", False), runs], versions),
    ]
    return [_most_common(table) for table in tables if table.rows]


def _most_common(table: Table) -> Table:
    """A table of counts without those that few runs stand behind, where there are too many."""
    if len(table.rows) <= MAX_ROWS:
        return table
    rows = sorted(table.rows, key=lambda row: -int(row[-1]))[:MAX_ROWS]
    caption = f"The {MAX_ROWS} of {len(table.rows):,} rows with the most runs behind them."
    return replace(table, rows=rows, caption=caption)


def warnings(collection: Collection, frames: Frames) -> list[str]:
    """What a reader must know before trusting the tables."""
    found = [f"Not read: {skipped.reason}." for skipped in collection.skipped[:MAX_NAMES]]
    if len(collection.skipped) > MAX_NAMES:
        found.append(f"{len(collection.skipped) - MAX_NAMES:,} more could not be read; see Runs.")
    codes = {_code(line) for record in collection.records for line in record.provenance}
    if len(codes) > 1:
        found.append(f"The runs come from {len(codes)} states of the code; see Provenance.")
    if any(tree == "modified" for _, tree in codes):
        found.append(
            "Some runs come from a modified working tree, so their git SHA does not tell the whole code."
        )
    cells = frames.runs.groupby(["arch", "data", "settings", "norm", *BATCH_AXES], dropna=False)
    if (cells.world_size.nunique() > 1).any():
        found.append(
            "Some seeds of one cell ran on different numbers of ranks. The estimates follow the first rank's "
            "batches alone, so fewer ranks update them more often in a step: their shift is not quite alike."
        )
    copies = int((~frames.runs.counted).sum())
    if copies:
        found.append(
            f"{plural(copies, 'folder')} of a run that is found more than once: each run is counted once."
        )
    damaged = int((frames.runs.notes != "").sum())
    if damaged:
        found.append(f"{plural(damaged, 'run')} with damaged lines, which are left out; see Runs.")
    return found


def metric_table() -> Table:
    """The metric registry."""
    rows = [[m.title, m.name, m.unit, m.direction, m.formula] for m in METRICS.values()]
    headers = ("Metric", "Name", "Unit", "Better", "Formula")
    return Table("Metrics", [Column(header, False, wide=header == "Formula") for header in headers], rows)


def _counted(pairs: set[tuple[int, tuple[str, ...]]]) -> list[list[str]]:
    counts = Counter(key for _, key in pairs)
    return [[*key, str(count)] for key, count in sorted(counts.items())]


def _code(line: dict[str, Any]) -> tuple[str, str]:
    dirty = line.get("git_dirty")
    tree = "unknown" if dirty is None else "modified" if dirty else "clean"
    return (str(line.get("git_sha") or "unknown")[:12], tree)


def _hardware(line: dict[str, Any]) -> tuple[str, str, str]:
    hosts = line.get("hosts")
    names = ", ".join(sorted({str(h) for h in hosts})) if isinstance(hosts, list) else str(hosts or EMPTY)
    return (str(line.get("device") or EMPTY), str(line.get("world_size") or EMPTY), names)


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}
