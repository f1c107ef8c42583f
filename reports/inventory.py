"""What was run, where and with which code: the run list and the provenance tables."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from reports.collect import Collection, Skipped
from reports.frames import Frames
from reports.numbers import EMPTY, plural
from reports.tables import Column, Table
from suite.metrics import METRICS
from suite.record import Record


@dataclass(frozen=True)
class Overview:
    """The header of a report."""

    title: str
    counts: list[tuple[str, int]]
    period: str


# What wants a look first.
WORST_FIRST = ("failed", "diverged", "cancelled", "preempted", "running", "queued", "stopped", "completed")
# What the run list says of where a run ran.
PLACES = {"job": "Job", "nodes": "Nodes"}
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
    return Overview(", ".join(sorted(counted.experiment.unique())), counts, period)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def run_list(frames: Frames, skipped: Sequence[Skipped]) -> Table:
    """Every folder that was found, with state and reason; what went wrong comes first.

    Job and nodes are columns when any run has them.
    """
    base = _common_folder([*frames.runs.folder, *(str(s.folder) for s in skipped)])
    places = {name: title for name, title in PLACES.items() if (frames.runs[name] != "").any()}
    nowhere = [EMPTY] * len(places)
    rows = [
        [EMPTY, EMPTY, "unreadable", EMPTY, *nowhere, s.reason, os.path.relpath(s.folder, base)]
        for s in skipped
    ]
    runs = frames.runs.assign(place=frames.runs.state.map(WORST_FIRST.index))
    runs = runs.sort_values("place", kind="stable")
    for run in runs.to_dict("records"):
        notes = [run["reason"], run["notes"]]
        if not run["counted"]:
            notes.append("a copy of a run listed elsewhere, not counted")
        if run["attempts"] > 1:
            notes.append(f"{run['attempts']} attempts")
        if run["bad_images"] > 0:
            notes.append(plural(int(run["bad_images"]), "bad image"))
        axes = [run["arch"], run["norm"], f"nb{run['norm_batch_size']}", run["settings"]]
        rows.append(
            [
                " ".join(filter(None, axes)),
                str(run["seed"]),
                run["state"],
                f"{run['epoch']} of {run['epochs']}",
                *(run[name] or EMPTY for name in places),
                "; ".join(filter(None, notes)),
                os.path.relpath(run["folder"], base),
            ]
        )
    columns = [
        Column("Run", False),
        Column("Seed"),
        Column("State", False),
        Column("Last epoch"),
        *(Column(title, False) for title in places.values()),
        Column("Reason and notes", False, wide=True),
        Column("Folder", False),
    ]
    caption = f"Folders are below {base}."
    if places:
        caption += " Job and nodes are those of the newest start."
    return Table("Runs", columns, rows, caption=caption)


def _common_folder(folders: list[str]) -> str:
    """The deepest folder above all of them."""
    return os.path.commonpath([os.path.dirname(os.path.abspath(folder)) for folder in folders])  # noqa: PTH100, PTH120


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
    return [table for table in tables if table.rows]


def warnings(collection: Collection, frames: Frames) -> list[str]:
    """What a reader must know before trusting the tables."""
    found = [f"Not read: {skipped.reason}." for skipped in collection.skipped]
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
