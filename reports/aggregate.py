"""Runs to cells: counts of states, and means over seeds with their intervals."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from reports.frames import GROUP, Frames
from reports.stats import Estimate, mean_interval

UNFINISHED = ["failed", "diverged", "cancelled", "preempted", "stopped", "running", "queued", "not_started"]
HARDWARE = ["device", "world_size"]


def summarise(
    frames: Frames, metrics: Sequence[str], extra_keys: Sequence[str] = (), sums: Sequence[str] = ()
) -> pd.DataFrame:
    """Aggregate the counted runs by GROUP and `extra_keys`; only completed runs give values of `metrics`.

    `sums` are columns that are added up over the runs of every state; NaN when no run has a value.
    """
    runs = frames.runs[frames.runs.counted]
    # An experiment is a product of its axes and its seeds: a seed that one cell has, every cell was to have.
    planned = runs.groupby(["experiment", "settings"]).seed.agg(set)
    rows: list[dict[str, Any]] = []
    for key, group in runs.groupby([*GROUP, *extra_keys], sort=False, dropna=False):
        seeds: set[int] = set().union(
            *(planned[k] for k in zip(group.experiment, group.settings, strict=True))
        )
        states = group.state.value_counts()
        done = group[group.state == "completed"]
        row = dict(zip([*GROUP, *extra_keys], key, strict=True))
        row |= {"has_bn": bool((group.norm_rank < 2).all()), "num_bn_layers": int(group.num_bn_layers.max())}
        row |= {"planned": len(seeds), "completed": len(done)}
        row |= {state: int(states.get(state, 0)) for state in UNFINISHED}
        row["not_started"] = len(seeds - set(group.seed))
        row["mixed_hardware"] = len(done[HARDWARE].drop_duplicates()) > 1
        for metric in metrics:
            row |= _flatten(metric, mean_interval(done[metric]))
        row |= {name: group[name].sum(min_count=1) for name in sums}
        rows.append(row)
    return pd.DataFrame(rows)


def _flatten(metric: str, estimate: Estimate | None) -> dict[str, float]:
    e = estimate or Estimate(math.nan, None, None, 0)
    low, high = (math.nan if bound is None else bound for bound in (e.low, e.high))
    return {f"{metric}_mean": e.mean, f"{metric}_low": low, f"{metric}_high": high, f"{metric}_n": e.n}


def estimate_of(row: pd.Series, metric: str) -> Estimate | None:
    """An estimate out of a row of `summarise`."""
    if row[f"{metric}_n"] == 0:
        return None
    low, high = (
        None if math.isnan(row[f"{metric}_{b}"]) else float(row[f"{metric}_{b}"]) for b in ("low", "high")
    )
    return Estimate(float(row[f"{metric}_mean"]), low, high, int(row[f"{metric}_n"]))
