"""What an experiment planned, as far as its runs show: seeds and whole cells that have not begun.

An experiment is the product of its axes and its seeds. So every cell was planned with each seed that one cell
has, and every norm at each batch layout that one norm has. The points of a study are no product.
"""

import pandas as pd

_PLAN = ["experiment", "settings"]
_WHERE = ["experiment", "arch", "data", "settings"]
_FREE_LAYOUT = ["global_batch_size", "batch_size_per_gpu"]
_LAYOUT = [*_FREE_LAYOUT, "norm_batch_size"]


def planned_seeds(runs: pd.DataFrame) -> pd.Series:
    """How many seeds each cell was planned with. `runs`: with their `cell`."""
    own = runs[["cell", "seed"]]  # no more is known of a study's point
    of_product = runs[~runs.is_of_study]
    seeds = of_product[[*_PLAN, "seed"]].drop_duplicates()
    planned = of_product[["cell", *_PLAN]].drop_duplicates().merge(seeds, on=_PLAN)[["cell", "seed"]]
    return pd.concat([own, planned]).groupby("cell").seed.nunique()


def unstarted_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Cells of experiments of which there is no run: frames.GROUP, has_bn and planned, a row each.

    A norm without BN is one run for all norm batches of a layout; its norm batch is its batch per GPU.
    """
    everything, runs = runs, runs[~runs.is_of_study]
    norms = runs[[*_WHERE, "norm", "has_bn"]].drop_duplicates()
    with_bn, free = norms[norms.has_bn], norms[~norms.has_bn]
    layouts = runs.loc[runs.has_bn, [*_WHERE, *_LAYOUT]].drop_duplicates()
    free_layouts = runs[[*_WHERE, *_FREE_LAYOUT]].drop_duplicates()
    free_layouts = free_layouts.assign(norm_batch_size=free_layouts.batch_size_per_gpu)
    wanted = pd.concat([with_bn.merge(layouts, on=_WHERE), free.merge(free_layouts, on=_WHERE)])
    # Another experiment, or a study, may have run the cell: then it is there.
    cell = [*_WHERE[1:], *_LAYOUT, "norm"]
    there = everything[cell].drop_duplicates()
    missing = wanted.merge(there, on=cell, how="left", indicator=True)
    missing = missing[missing["_merge"] == "left_only"].drop_duplicates(cell)
    seeds = runs.groupby(_PLAN, as_index=False).agg(planned=("seed", "nunique"))
    return missing.merge(seeds, on=_PLAN)[[*cell, "has_bn", "planned"]]
