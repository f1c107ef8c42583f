"""Which cell is compared with which, and their values paired by seed."""

import numpy as np
import pandas as pd

from reports.aggregate import cell_numbers, estimate_columns, summarise
from reports.frames import CONTEXT, Frames
from reports.stats import compare_pairs, holm, judge

BASELINE = "_baseline"
_LAYOUT = [*CONTEXT, "batch_size_per_gpu"]


def pair_cells(frames: Frames, baseline: str) -> pd.DataFrame:
    """A row for each cell that is not the baseline's, beside the baseline's of the same context and batches.

    The columns are those of `summarise` and `cell`, and again with `_baseline` for the baseline's, which are
    NaN where it was not run. A norm without BN is the same run at every norm batch: it is compared at each,
    and `norm_batch_size` is the one compared at. Ordered by context and norm batch.
    """
    cells = summarise(frames, [])
    cells["cell"] = cells.index
    base, rivals = cells[cells.norm == baseline], cells[cells.norm != baseline]
    # Both sides have a norm batch, or only one has, or neither.
    bound = rivals.has_bn & bool(base.has_bn.all())
    same_batch = _merged(rivals[bound], base, [*_LAYOUT, "norm_batch_size"])
    at_each = _merged(rivals[~bound], base, _LAYOUT)
    theirs = at_each.norm_batch_size_baseline.where(~at_each.has_bn.astype(bool)).astype(float)
    at_each["norm_batch_size"] = theirs.fillna(at_each.norm_batch_size).astype(int)
    pairs = pd.concat([same_batch, at_each], ignore_index=True)
    order = pairs[CONTEXT].merge(cells[CONTEXT].drop_duplicates().reset_index(names="context"), on=CONTEXT)
    pairs = pairs.assign(context=order.context, is_free=~pairs.has_bn.astype(bool))
    by = ["context", "norm_batch_size", "batch_size_per_gpu", "is_free", "cell"]
    return pairs.sort_values(by, ignore_index=True).drop(columns=["context", "is_free"])


def _merged(rivals: pd.DataFrame, base: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    renamed = base.rename(columns={name: f"{name}{BASELINE}" for name in base if name not in keys})
    return rivals.merge(renamed, on=keys, how="left")


def compared(
    frames: Frames, pairs: pd.DataFrame, values: pd.DataFrame, *, ratio: bool = False
) -> pd.DataFrame:
    """Each row of `pairs` over the seeds that both sides completed: the columns of `_tested`.

    `values`: run and value; and rival, where a run of the baseline has one value for each norm that it is
    compared with (`shared_layers.over_shared_layers`).
    """
    return _tested(_by_seed(frames, pairs, values), pairs.index, ratio)


def _by_seed(frames: Frames, pairs: pd.DataFrame, values: pd.DataFrame) -> pd.DataFrame:
    """A line for each seed that both sides of a row completed: row, seed, value and its `_baseline`."""
    runs = frames.runs[frames.runs.counted]
    runs = runs.assign(cell=cell_numbers(runs))[["run", "cell", "seed", "state"]]
    done = runs[runs.state == "completed"].drop(columns="state").merge(values, on="run").drop(columns="run")
    same = [name for name in ("rival",) if name in values]
    cells = ["cell", f"cell{BASELINE}"]
    rows = pairs[["norm", *cells]].rename(columns={"norm": "rival"}).reset_index(names="row").dropna()
    theirs = done.rename(columns={name: f"{name}{BASELINE}" for name in ("cell", "value")})
    return (
        rows.astype(dict.fromkeys(cells, int))
        .merge(done, on=["cell", *same])
        .merge(theirs, on=[f"cell{BASELINE}", "seed", *same])
    )


def _tested(values: pd.DataFrame, rows: pd.Index, ratio: bool) -> pd.DataFrame:
    """Row by row: mean, low, high, n, effect_size, p, p_holm, outcome.

    Means of differences, or of ratios; p is adjusted by Holm over all rows.
    """
    ours, theirs = values["value"].to_numpy(float), values[f"value{BASELINE}"].to_numpy(float)
    places = values.groupby("row").indices
    found = []
    for row in rows:
        chosen = places.get(row, np.array([], dtype=int))
        found.append(compare_pairs(ours[chosen].tolist(), theirs[chosen].tolist(), ratio=ratio))
    table = pd.DataFrame(estimate_columns([one.estimate for one in found]), index=rows)
    table["effect_size"] = [one.effect_size for one in found]
    table["p"] = [one.p for one in found]
    table["p_holm"] = holm(table.p.tolist())
    neutral = 1.0 if ratio else 0.0
    table["outcome"] = [judge(one.estimate, p, neutral) for one, p in zip(found, table.p_holm, strict=True)]
    return table
