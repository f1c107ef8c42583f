"""Runs to cells: counts of states, and means over seeds with their intervals."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from reports.frames import GROUP, Frames
from reports.stats import CONFIDENCE, Estimate

UNFINISHED = ["failed", "diverged", "cancelled", "preempted", "stopped", "running", "queued", "not_started"]
HARDWARE = ["device", "world_size"]


def summarise(
    frames: Frames, metrics: Sequence[str], extra_keys: Sequence[str] = (), sums: Sequence[str] = ()
) -> pd.DataFrame:
    """Aggregate the counted runs by GROUP and `extra_keys`; only completed runs give values of `metrics`.

    The rows are in the order of the runs. For each metric `_mean`, `_low`, `_high` (Student's t interval at
    stats.CONFIDENCE, NaN for one seed) and `_n`, over its finite values. `sums` are columns that are added
    up over the runs of every state; NaN when no run has a value.
    """
    keys = [*GROUP, *extra_keys]
    runs = frames.runs[frames.runs.counted]
    runs = runs.assign(cell=runs.groupby(keys, sort=False, dropna=False).ngroup())
    cells = runs.groupby("cell")
    table = runs.drop_duplicates("cell").set_index("cell")[keys]
    table["has_bn"] = cells.norm_rank.max() < 2
    table["num_bn_layers"] = cells.num_bn_layers.max()
    table = table.join(_counts(runs))
    done = runs[runs.state == "completed"]
    kinds = done.drop_duplicates(["cell", *HARDWARE]).groupby("cell").size()
    table["mixed_hardware"] = kinds.reindex(table.index, fill_value=0) > 1
    parts = [_intervals(done, metric).reindex(table.index) for metric in metrics]
    parts += [cells[[*sums]].sum(min_count=1)] if sums else []
    table = pd.concat([table, *parts], axis=1)
    counts = [f"{metric}_n" for metric in metrics]
    table[counts] = table[counts].fillna(0).astype(int)
    return table.reset_index(drop=True)


def _counts(runs: pd.DataFrame) -> pd.DataFrame:
    """By cell: runs planned, and those in each state."""
    # An experiment is a product of its axes and its seeds: a seed that one cell has, every cell was to have.
    of = ["experiment", "settings"]
    wanted = runs[["cell", *of]].drop_duplicates().merge(runs[[*of, "seed"]].drop_duplicates(), on=of)
    planned = wanted.drop_duplicates(["cell", "seed"]).groupby("cell").size()
    states = pd.crosstab(runs.cell, runs.state).reindex(columns=["completed", *UNFINISHED], fill_value=0)
    states["not_started"] = planned - runs.groupby("cell").seed.nunique()
    states.insert(0, "planned", planned)
    return states


def _intervals(done: pd.DataFrame, metric: str) -> pd.DataFrame:
    """`stats.mean_interval` for every cell at once."""
    values = done[metric].astype(float)
    groups = values.where(np.isfinite(values)).groupby(done.cell)
    n, mean = groups.count(), groups.mean()
    half = _t_quantile(n) * np.sqrt(groups.var() / n)
    columns = {"mean": mean, "low": mean - half, "high": mean + half, "n": n}
    return pd.DataFrame(columns).add_prefix(f"{metric}_")


def _t_quantile(n: pd.Series) -> pd.Series:
    """Of Student's t for n values, two-sided; NaN for one."""
    counts = n.unique()
    degrees = np.where(counts > 1, counts - 1, np.nan)
    return n.map(pd.Series(scipy_stats.t.ppf((1 + CONFIDENCE) / 2, degrees), index=counts))


def estimate_of(row: pd.Series, metric: str) -> Estimate | None:
    """An estimate out of a row of `summarise`."""
    if row[f"{metric}_n"] == 0:
        return None
    low, high = (
        None if math.isnan(row[f"{metric}_{b}"]) else float(row[f"{metric}_{b}"]) for b in ("low", "high")
    )
    return Estimate(float(row[f"{metric}_mean"]), low, high, int(row[f"{metric}_n"]))
