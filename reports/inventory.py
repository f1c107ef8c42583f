"""What was run, where and with which code: the run list and the provenance tables."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pandas as pd

from reports.collect import Collection, Skipped
from reports.frames import Frames
from reports.numbers import EMPTY, plural
from reports.tables import Column, Table
from suite.metrics import METRICS


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
    times = sorted(_date(t) for t in frames.starts.started_at.dropna().unique())
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


def provenance_tables(frames: Frames) -> list[Table]:
    """Code, hardware and package versions, each with the number of runs behind it."""
    starts = frames.starts
    code = _counted(_code(starts))
    columns = {"device": starts.device, "ranks": _whole(starts.world_size), "hosts": starts.hosts}
    hardware = _counted(pd.DataFrame(columns | {"run": starts.run}).fillna(EMPTY))
    versions = _counted(_versions(starts))
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
    codes = _code(frames.starts)[["sha", "tree"]].drop_duplicates()
    if len(codes) > 1:
        found.append(f"The runs come from {len(codes)} states of the code; see Provenance.")
    if (codes.tree == "modified").any():
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


def _counted(values: pd.DataFrame) -> list[list[str]]:
    """Each combination of the columns beside `run`, with the number of runs that have it."""
    keys = [name for name in values.columns if name != "run"]
    counts = values.drop_duplicates().groupby(keys, sort=True).size()
    return [[*map(str, row[:-1]), str(row[-1])] for row in counts.reset_index().to_numpy().tolist()]


def _code(starts: pd.DataFrame) -> pd.DataFrame:
    tree = starts.git_dirty.map({True: "modified", False: "clean"}).fillna("unknown")
    return pd.DataFrame({"sha": starts.git_sha.fillna("unknown").str[:12], "tree": tree, "run": starts.run})


def _whole(numbers: pd.Series) -> pd.Series:
    return numbers.astype("Int64").astype(object).map(lambda v: EMPTY if pd.isna(v) else str(v))


def _versions(starts: pd.DataFrame) -> pd.DataFrame:
    """A row for each package of each attempt."""
    packages = {text: list(json.loads(text).items()) for text in starts.versions.unique()}
    rows = starts[["run", "versions"]].drop_duplicates()
    long = rows.assign(package=rows.versions.map(packages)).explode("package").dropna(subset="package")
    return pd.DataFrame(
        {"package": long.package.str[0], "version": long.package.str[1], "run": long.run}, dtype=object
    )
