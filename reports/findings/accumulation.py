"""How fast the shift accumulates over depth: the slope of a layer's scaled ESM σ over its place."""

from dataclasses import replace

import pandas as pd

from reports.aggregate import summarise
from reports.findings.baseline import Baseline, compared, over_shared_layers, pair_cells
from reports.frames import GROUP, Frames
from reports.stats import slopes
from suite.metrics import SHIFT_SIGMA

# The paper's raw slopes are shown too. The first layer, in units of the image, dominates them.
SLOPES = {SHIFT_SIGMA: "scaled_slope", "esm_sigma": "sigma_slope"}


def run_slopes(frames: Frames) -> pd.DataFrame:
    """For each run the least-squares slopes of scaled ESM σ and of ESM σ, per layer: run and SLOPES.

    Over the run's own BN layers at their places among those of all norms; NaN with fewer than two of them,
    or when one of the values is not finite.
    """
    table = frames.runs[["run"]]
    for metric, name in SLOPES.items():
        rows = frames.layers[frames.layers.metric == metric]
        table = table.assign(**{name: table.run.map(_slope_over_layers(rows))})
    return table


def _slope_over_layers(rows: pd.DataFrame) -> pd.Series:
    return slopes(rows.position.astype(float), rows.value.astype(float), rows.run)


def accumulation(frames: Frames, baseline: Baseline) -> pd.DataFrame:
    """A row for each cell with BN layers that was probed: the columns of `summarise` for each of SLOPES.

    And, with a baseline, `difference_*`: of the slope of scaled ESM σ to the baseline's over the layers that
    both have, paired by seed, as in `baseline.compared`.
    """
    runs = frames.runs.merge(run_slopes(frames), on="run")
    table = summarise(replace(frames, runs=runs), list(SLOPES.values()))
    table = table[table[[f"{name}_n" for name in SLOPES.values()]].sum(axis=1) > 0]
    if baseline.label is None:
        return table.reset_index(drop=True)
    pairs = pair_cells(frames, baseline.label)
    pairs = pairs[pairs.has_bn.astype(bool)].reset_index(drop=True)
    shared = over_shared_layers(frames, baseline.label, SHIFT_SIGMA, _slope_over_layers)
    differences = compared(frames, pairs, shared).add_prefix("difference_")
    return table.merge(pd.concat([pairs[GROUP], differences], axis=1), on=GROUP, how="left")
