"""Runs to cells: counts of states, and means over seeds with their intervals."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from reports.frames import GROUP, Frames
from reports.planned_runs import planned_seeds
from reports.stats import Estimate, mean_interval

UNFINISHED = ["failed", "diverged", "cancelled", "preempted", "stopped", "running", "queued", "not_started"]
HARDWARE = ["device", "world_size"]
_NEEDED = ["experiment", "seed", "state", "is_of_study", "has_bn", "num_bn_layers"]


def summarise(
    frames: Frames, metrics: Sequence[str], extra_keys: Sequence[str] = (), sums: Sequence[str] = ()
) -> pd.DataFrame:
    """Aggregate the counted runs by GROUP and `extra_keys`; only completed runs give values of `metrics`.

    The rows are in the order of the runs; cells that have not begun (`Frames.unstarted`) come
    last, unless there are extra keys. For each metric `_mean`, `_low`, `_high` (Student's t interval at
    stats.CONFIDENCE; of two seeds the values themselves, NaN of one) and `_n`, over its finite values.
    `sums` are columns that are added up over the runs of every state; NaN when no run has a value.
    """
    keys = [*GROUP, *extra_keys]
    needed = dict.fromkeys([*GROUP, *keys, *_NEEDED, *HARDWARE, *metrics, *sums])
    runs = frames.counted[list(needed)]
    runs = runs.assign(cell=cell_numbers(runs, keys))
    cells = runs.groupby("cell")
    table = runs.drop_duplicates("cell").set_index("cell")[keys].sort_index()
    table["has_bn"] = cells.has_bn.all()
    table["num_bn_layers"] = cells.num_bn_layers.max()
    table["planned"] = planned_seeds(runs)
    states = runs.groupby(["cell", "state"]).size().unstack(fill_value=0)
    for state in ("completed", *UNFINISHED):
        table[state] = states.get(state, 0)
    table["not_started"] = table.planned - cells.seed.nunique()
    done = runs[runs.state == "completed"]
    kinds = done.drop_duplicates(["cell", *HARDWARE]).groupby("cell").size()
    table["mixed_hardware"] = kinds.reindex(table.index, fill_value=0) > 1
    columns: dict[str, Any] = {
        f"{metric}_{part}": values
        for metric in metrics
        for part, values in _means(done, metric, table.index).items()
    }
    columns |= {name: cells[name].sum(min_count=1) for name in sums}
    table = pd.concat([table, pd.DataFrame(columns, index=table.index)], axis=1)
    # Cells that have not begun have no hardware.
    if extra_keys or frames.unstarted.empty:
        return table.reset_index(drop=True)
    return _with(table, frames.unstarted, metrics)


def _with(table: pd.DataFrame, missing: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """The rows of cells that have not begun, below the others."""
    counts = dict.fromkeys(["completed", *UNFINISHED, "num_bn_layers", *(f"{m}_n" for m in metrics)], 0)
    rows = missing.assign(**counts).assign(not_started=missing.planned, mixed_hardware=False)
    whole = pd.concat([table, rows], ignore_index=True)[table.columns]
    whole_numbers = [*GROUP, "has_bn", "planned", "mixed_hardware", *counts]
    return whole.astype({name: table.dtypes[name] for name in whole_numbers})


def cell_numbers(runs: pd.DataFrame, keys: Sequence[str] = GROUP) -> pd.Series:
    """For each run the number of its cell: the row of `summarise` that it is in, if it is counted."""
    return runs.groupby(list(keys), sort=False, dropna=False).ngroup()


def _means(done: pd.DataFrame, metric: str, cells: pd.Index) -> dict[str, list[float]]:
    values = done.groupby("cell")[metric].agg(list).to_dict()
    return estimate_columns([mean_interval(values.get(cell, [])) for cell in cells])


def once_for_each_hardware(runs: pd.DataFrame) -> pd.DataFrame:
    """The completed runs; one that was trained on several kinds of hardware, once on each.

    A run is the same whatever trains it, so that elsewhere its copies are left out.
    """
    done = runs[runs.state == "completed"].sort_values("counted", ascending=False, kind="stable")
    return done.drop_duplicates(["run_id", *HARDWARE]).sort_index()


def finite(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The rows in which all of these columns have finite numbers."""
    # What is empty may have no numeric type.
    numbers = frame[list(columns)].astype(float)
    return frame[pd.Series(np.isfinite(numbers).all(axis=1), dtype=bool)]


def scaling_efficiency(runs: pd.DataFrame, cell: Sequence[str]) -> pd.Series:
    """Of each run: its images/s per rank over the mean of those of its cell at the cell's fewest ranks.

    `runs`: the columns of `cell`, world_size, and images/s per rank as `value`. NaN where a cell ran on one
    number of ranks only.
    """
    ranks = runs.groupby(list(cell), observed=True, dropna=False).world_size
    at_fewest = runs.value.where(runs.world_size == ranks.transform("min"))
    keys = [runs[name] for name in cell]
    reference = at_fewest.groupby(keys, observed=True, dropna=False).transform("mean")
    return (runs.value / reference).where(ranks.transform("nunique") > 1)


def estimate_columns(estimates: Sequence[Estimate | None]) -> dict[str, list[float]]:
    """Estimates as columns: mean, low, high (NaN where there is none) and n."""
    parts = [_parts(estimate) for estimate in estimates]
    return {name: [p[i] for p in parts] for i, name in enumerate(("mean", "low", "high", "n"))}


def _parts(estimate: Estimate | None) -> tuple[float, float, float, int]:
    if estimate is None:
        return math.nan, math.nan, math.nan, 0
    low, high = (math.nan if bound is None else bound for bound in (estimate.low, estimate.high))
    return estimate.mean, low, high, estimate.n


def estimate_of(row: pd.Series, metric: str) -> Estimate | None:
    """An estimate out of a row of `summarise`."""
    if row[f"{metric}_n"] == 0:
        return None
    low, high = (
        None if math.isnan(row[f"{metric}_{b}"]) else float(row[f"{metric}_{b}"]) for b in ("low", "high")
    )
    return Estimate(float(row[f"{metric}_mean"]), low, high, int(row[f"{metric}_n"]))
