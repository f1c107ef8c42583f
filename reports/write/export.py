"""The numbers behind a report as data: a row for each run, and a row for each run, metric and layer."""

import io
import os
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd

from reports.frames import BEST_TOP1, SCALAR_METRICS, SHIFT_METRICS, Frames
from reports.numbers import EMPTY, Number
from reports.tables.table import Cell, Table
from suite.record import Costs

_AXES = ["run_id", "experiment", "arch", "data", "settings", "norm", "global_batch_size"]
_AXES += ["batch_size_per_gpu", "norm_batch_size", "seed", "epochs"]
_OUTCOME = ["state", "counted", "reason", "notes", "epoch", "attempts", "job", "nodes"]
_PLACE = ["device", "device_type", "world_size"]
_COSTS = [cost.name for cost in fields(Costs)]
_SHIFT = [f"{metric}_{mean}" for metric in SHIFT_METRICS for mean in ("common", "mean")]
COLUMNS = [
    *_AXES,
    *_OUTCOME,
    *_PLACE,
    *_COSTS,
    *SCALAR_METRICS,
    BEST_TOP1,
    "num_bn_layers",
    *_SHIFT,
    "folder",
]
_INTEGERS = {
    *("global_batch_size", "batch_size_per_gpu", "norm_batch_size", "seed", "epochs", "epoch", "attempts"),
    *("world_size", "restarts", "lost_steps", "num_bn_layers"),
}
_FLOATS = {"rank_s", "queue_wait_s", *SCALAR_METRICS, BEST_TOP1, *_SHIFT}
# As Parquet files have held texts from the first: with 64-bit offsets.
_ARROW_TEXT = pd.StringDtype("pyarrow", na_value=np.nan)
# With which a spreadsheet lets a formula begin.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def results(frames: Frames, beside: Path) -> pd.DataFrame:
    """COLUMNS of every run, counted or not, in the report's order; docs/reports.md says what they mean.

    Types are integers, floats, booleans and texts; what was not measured is NaN or missing. `folder` is
    seen from `beside`, where the file will lie.
    """
    runs = frames.runs[COLUMNS].reset_index(drop=True)
    top = os.path.abspath(beside)  # noqa: PTH100 - as typed: a link on the way stays one
    folders = [os.path.relpath(folder, top) for folder in runs.folder.astype(str)]
    runs = runs.assign(folder=folders)
    return runs.assign(**{name: _typed(runs[name]) for name in COLUMNS})


def _typed(column: pd.Series) -> pd.Series:
    if column.name in _INTEGERS:
        return pd.to_numeric(column, errors="coerce").astype("Int64")
    if column.name in _FLOATS:
        return column.astype(float)
    if column.name == "counted":
        return column.astype(bool)
    return column.map(str, na_action="ignore").astype("string[pyarrow]")


def layer_values(frames: Frames) -> pd.DataFrame:
    """The newest probe of every counted run: run_id, metric, layer, position, value."""
    ids = frames.counted.set_index("run").run_id
    layers = frames.layers[frames.layers.run.isin(ids.index)]
    metrics = layers.metric.cat.categories.astype(_ARROW_TEXT)
    found = layers.assign(
        run_id=layers.run.map(ids).astype(_ARROW_TEXT),
        metric=layers.metric.astype(pd.CategoricalDtype(metrics)),
    )
    return found[["run_id", "metric", "layer", "position", "value"]].reset_index(drop=True)


def table_csv(table: Table) -> bytes:
    """A table of the page: its cells' numbers, and columns for the ends of intervals where it has any."""
    columns: dict[str, list[object]] = {}
    for i, column in enumerate(table.columns):
        cells = [row[i] for row in table.rows]
        is_number = column.kind == "number"
        columns[column.header] = [_plain(cell, is_number) for cell in cells]
        for end, name in enumerate(("low", "high")):
            found: list[object] = [_end(cell, end) for cell in cells]
            if any(one is not None for one in found):
                columns[f"{column.header}, {name}"] = found
    text = [name for name, values in columns.items() if any(isinstance(value, str) for value in values)]
    frame = pd.DataFrame(columns, dtype=object)
    return to_csv(frame.astype(dict.fromkeys(text, "string[pyarrow]")))


def _plain(cell: Cell, is_number: bool) -> object:
    if isinstance(cell, Number):
        return cell.value
    return None if is_number and str(cell) == EMPTY else str(cell)


def _end(cell: Cell, end: int) -> float | None:
    both = (cell.both or cell.interval) if isinstance(cell, Number) else None
    return None if both is None else both[end]


def to_csv(table: pd.DataFrame) -> bytes:
    """UTF-8, ten significant digits. A text that a spreadsheet would run as a formula has a ' before it."""
    names = [str(name) for name in table if isinstance(table[name].dtype, pd.StringDtype)]
    texts = {name: table[name].map(_safe, na_action="ignore") for name in names}
    text = table.assign(**texts).to_csv(index=False, lineterminator="\n", float_format="%.10g")
    return str(text).encode()


def _safe(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def to_parquet(table: pd.DataFrame) -> bytes:
    """A Parquet file's content."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()
