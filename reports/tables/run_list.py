"""The table of all runs: state, reason, and links to each log and configuration."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from reports.collect import Skipped
from reports.frames import GROUP, Frames
from reports.numbers import EMPTY, count_cell, plural
from reports.tables.table import MAX_ROWS, Cell, Column, Link, StateCell, Table, cut_short
from suite.paths import RunPaths

# What needs attention comes first.
WORST_FIRST = ("failed", "diverged", "cancelled", "preempted", "running", "queued", "stopped", "completed")
# Columns that say where a run ran.
PLACES = {"job": "Job", "nodes": "Nodes"}
_LINKS = ("log", "config")


def run_list(frames: Frames, skipped: Sequence[Skipped], out: Path | None = None) -> Table:
    """Every folder that was found, with state and reason; what went wrong comes first, MAX_ROWS in all.

    Job and nodes are columns when any run has them. With `out`, the report's folder, links lead to the files
    of each run, and folders are relative to it.
    """
    base = _common_folder([*frames.runs.folder, *(str(s.folder) for s in skipped)])
    places = {name: title for name, title in PLACES.items() if (frames.runs[name] != "").any()}
    nowhere = [EMPTY] * len(places)
    rows: list[list[Cell]] = [
        [EMPTY, EMPTY, StateCell("unreadable"), EMPTY, *nowhere, s.reason, os.path.relpath(s.folder, base)]
        for s in skipped[:MAX_ROWS]
    ]
    folders = [s.folder for s in skipped[:MAX_ROWS]]
    place = frames.runs.state.map(WORST_FIRST.index).astype(int)
    shown = frames.runs.loc[place.sort_values(kind="stable").index[: MAX_ROWS - len(rows)]]
    for record in shown.to_dict("records"):
        run = {str(name): value for name, value in record.items()}
        axes = [run["arch"], run["norm"], f"nb{run['norm_batch_size']}", run["settings"]]
        rows.append(
            [
                " ".join(filter(None, axes)),
                count_cell(run["seed"]),
                StateCell(run["state"]),
                f"{run['epoch']} of {run['epochs']}",
                *(run[name] or EMPTY for name in places),
                "; ".join(_notes(run)),
                os.path.relpath(run["folder"], base),
            ]
        )
        folders.append(Path(run["folder"]))
    belongs = [dict[str, str]()] * (len(rows) - len(shown))
    belongs += [
        {axis: str(row[axis]) for axis in GROUP if axis != "norm_batch_size" or row["has_bn"]}
        for row in shown.to_dict("records")
    ]
    columns = [
        Column("Run", "text"),
        Column("Seed"),
        Column("State", "text"),
        Column("Last epoch"),
        *(Column(title, "text") for title in places.values()),
        Column("Reason and notes", "sentence"),
        Column("Folder", "path"),
    ]
    caption = [f"Folders are below {base}." if out is None else f"Folders are below {_seen(base, out)}."]
    if places:
        caption.append("Job and nodes are those of the newest start.")
    caption += cut_short(len(frames.runs) + len(skipped), ", what went wrong first")
    table = Table("Runs", columns, rows, caption=" ".join(caption), belongs=belongs)
    return table if out is None else _with_links(table, folders, out)


def _notes(run: dict[str, Any]) -> list[str]:
    notes = [run["reason"], run["notes"]]
    if not run["counted"]:
        notes.append("a copy of a run listed elsewhere, not counted")
    if run["attempts"] > 1:
        notes.append(f"{run['attempts']} attempts")
    if run["bad_images"] > 0:
        notes.append(plural(int(run["bad_images"]), "bad image"))
    return [note for note in notes if note]


def _is_there(path: Path) -> bool:
    """Return whether there is such a file; no where this user may not look."""
    with suppress(OSError):
        return path.is_file()
    return False


def _with_links(table: Table, folders: Sequence[Path], out: Path) -> Table:
    """Add two columns that lead to each run's log and configuration, where these files exist."""
    files = [zip(_LINKS, (RunPaths(folder).log, RunPaths(folder).run), strict=True) for folder in folders]
    links = [
        [Link(text, quote(_seen(path, out))) if _is_there(path) else EMPTY for text, path in paths]
        for paths in files
    ]
    return replace(
        table,
        columns=[*table.columns, *(Column(text.capitalize(), "text") for text in _LINKS)],
        rows=[[*cells, *more] for cells, more in zip(table.rows, links, strict=True)],
    )


def _seen(path: Path | str, out: Path) -> str:
    """A path as seen from the report's folder."""
    return os.path.relpath(os.path.abspath(path), os.path.abspath(out))  # noqa: PTH100 - links stay as typed


def _common_folder(folders: list[str]) -> str:
    """The deepest folder above all of them."""
    return os.path.commonpath([os.path.dirname(os.path.abspath(folder)) for folder in folders])  # noqa: PTH100, PTH120
