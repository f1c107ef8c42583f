"""What was run, where and with which code: header, warnings and provenance tables."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from reports.collect import Collection
from reports.frames import Frames
from reports.numbers import EMPTY, MAX_NAMES, Number, count_cell, listed, plural
from reports.settings import differing
from reports.tables.run_list import WORST_FIRST
from reports.tables.table import MAX_ROWS, Cell, Column, Table
from suite.metrics import METRICS


@dataclass(frozen=True)
class ReportHeader:
    """The header of a report."""

    title: str
    counts: list[tuple[str, int]]
    period: str


BATCH_AXES = ["global_batch_size", "batch_size_per_gpu", "norm_batch_size"]


def report_header(collection: Collection, frames: Frames) -> ReportHeader:
    """Names of the experiments, runs by state, and when they ran (UTC)."""
    counted = frames.counted
    states = counted.state.value_counts()
    counts = [(state, int(states[state])) for state in reversed(WORST_FIRST) if state in states]
    if collection.skipped:
        counts.append(("unreadable", len(collection.skipped)))
    times = sorted(_date(t) for t in frames.starts.started_at.dropna().unique())
    period = "" if not times else times[0] if times[0] == times[-1] else f"{times[0]} to {times[-1]}"
    return ReportHeader(listed(sorted(counted.experiment.unique())), counts, period)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def command_line(roots: Sequence[Path], out: Path | None, baseline: str | None) -> str:
    """The command that makes this report again; empty without a folder for it."""
    if out is None:
        return ""
    against = [] if baseline is None else ["--baseline", baseline]
    return shlex.join(["shiftbench", "report", *map(str, roots), "--out", str(out), *against])


def provenance_tables(frames: Frames) -> list[Table]:
    """Code, hardware and package versions, each with the number of runs behind it."""
    starts = frames.starts
    hardware = starts[["run"]].assign(
        device=starts.device.fillna(EMPTY),
        ranks=starts.world_size.astype("Int64"),
        hosts=starts.hosts.fillna(EMPTY),
    )
    tables = (
        ("Code", ("Git SHA", "Working tree"), _code(starts)),
        ("Hardware", ("Device", "Ranks", "Hosts"), hardware),
        ("Versions", ("Package", "Version"), _versions(starts)),
    )
    found = []
    for title, headers, values in tables:
        columns = [
            *(Column(name, "number" if name == "Ranks" else "text") for name in headers),
            Column("Runs"),
        ]
        rows, caption = _counted(values), ""
        if len(rows) > MAX_ROWS:
            caption = f"The {MAX_ROWS} of {len(rows):,} rows with the most runs behind them."
            rows = sorted(rows, key=_num_runs, reverse=True)[:MAX_ROWS]
        found += [Table(title, columns, rows, caption=caption)] if rows else []
    return found


def _num_runs(row: Sequence[Cell]) -> float:
    assert isinstance(row[-1], Number)
    return row[-1].value


def warnings(collection: Collection, frames: Frames) -> list[str]:
    """What a reader must know before trusting the tables."""
    found = [f"Not read: {skipped.reason}." for skipped in collection.skipped[:MAX_NAMES]]
    if len(collection.skipped) > MAX_NAMES:
        found.append(f"{len(collection.skipped) - MAX_NAMES:,} more could not be read; see Runs.")
    found += confounds(frames)
    codes = _code(frames.starts)[["sha", "tree"]].drop_duplicates()
    if len(codes) > 1:
        found.append(f"The runs come from {len(codes)} states of the code; see Provenance.")
    if (codes.tree == "modified").any():
        found.append(
            "Some runs come from a modified working tree, so their git SHA does not identify the whole code."
        )
    cells = frames.runs.groupby(["arch", "data", "settings", "norm", *BATCH_AXES], dropna=False)
    if (cells.world_size.nunique() > 1).any():
        found.append(
            "Some seeds of one cell ran on different numbers of ranks. The estimates follow the first rank's "
            "batches, or all ranks' by their mean (batch.estimates), so fewer ranks update them more often "
            "in a step: their shifts differ a little."
        )
    served = frames.runs[['"data.loader": "auto"' in fields for fields in frames.deciding]]
    if (served.groupby(["arch", "data", "settings"], dropna=False).loader.nunique() > 1).any():
        names = " / ".join(sorted(served.loader.dropna().unique()))
        found.append(
            "Some runs that are compared, or seeds of one cell, had other loaders than the rest, as "
            f"data.loader: auto allows ({names}). Decoders differ in some pixels, so a part of their "
            "differences may be the loader's: set data.loader."
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


def confounds(frames: Frames) -> list[str]:
    """Sentences on what runs that are compared differ in beside norm, batch and settings."""
    runs = frames.runs.assign(deciding=frames.deciding)
    runs = runs[runs.counted]
    found = []
    for (arch, data), here in runs.groupby(["arch", "data"], sort=False):
        texts = here.drop_duplicates(["settings", "deciding"])
        for _, group in texts.groupby("settings", sort=False):
            fields = [json.loads(text) for text in group.deciding]
            names = differing(fields)
            values = (f"{n} {' / '.join(sorted({one[n] for one in fields if n in one})[:4])}" for n in names)
            if names:
                found.append(
                    f"Runs of {arch} on {data} that are compared differ in more than norm and batch: "
                    f"{', '.join(values)}. Differences between them are not the norm's alone."
                )
    return found


def metric_table() -> Table:
    """The metric registry."""
    rows = [[m.title, m.name, m.unit, m.direction, m.formula] for m in METRICS.values()]
    columns = [Column(header, "text") for header in ("Metric", "Name", "Unit", "Better")]
    return Table("Metrics", [*columns, Column("Formula", "sentence")], rows)


def _counted(values: pd.DataFrame) -> list[list[Cell]]:
    """Each combination of the columns beside `run`, with the number of runs that have it."""
    keys = [name for name in values.columns if name != "run"]
    counts = values.drop_duplicates().groupby(keys, sort=True, dropna=False).size().reset_index()
    return [[_cell(value) for value in row] for row in counts.astype(object).to_numpy().tolist()]


def _cell(value: object) -> Cell:
    if isinstance(value, int):
        return count_cell(value)
    return EMPTY if pd.isna(value) else str(value)  # type: ignore[call-overload]


def _code(starts: pd.DataFrame) -> pd.DataFrame:
    tree = starts.git_dirty.map({True: "modified", False: "clean"}).fillna("unknown")
    return pd.DataFrame({"sha": starts.git_sha.fillna("unknown").str[:12], "tree": tree, "run": starts.run})


def _versions(starts: pd.DataFrame) -> pd.DataFrame:
    """A row for each package of each attempt."""
    packages = {text: list(json.loads(text).items()) for text in starts.versions.unique()}
    rows = starts[["run", "versions"]].drop_duplicates()
    long = rows.assign(package=rows.versions.map(packages)).explode("package").dropna(subset="package")
    return pd.DataFrame(
        {"package": long.package.str[0], "version": long.package.str[1], "run": long.run}, dtype=object
    )
