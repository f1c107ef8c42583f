"""A run's results out of its curves: the newest values, the best top-1, how far it came."""

import numpy as np
import pandas as pd
import pyarrow as pa

from suite.metrics import METRICS

SCALAR_METRICS = [m.name for m in METRICS.values() if not m.per_layer]
BEST_TOP1 = "best_top1_percent"
# Of these the evaluation's values are results; the training's are for the curves.
_BOTH_SPLITS = [m.name for m in METRICS.values() if m.measured_in == "both"]


def results(curves: pa.Table, probes: pa.Table, num_runs: int) -> pd.DataFrame:
    """A row a run: the newest value of every scalar metric (NaN: none), BEST_TOP1, and its last `epoch`."""
    frame = curves.to_pandas()
    is_trained = (frame.split == "train").to_numpy()
    is_result = ~(is_trained & frame.metric.isin(_BOTH_SPLITS).to_numpy())
    newest = frame[is_result].drop_duplicates(["run", "metric"], keep="last")
    newest = newest.assign(metric=newest.metric.astype(str))
    found: pd.DataFrame = newest.pivot(index="run", columns="metric", values="value")
    found = found.reindex(index=range(num_runs), columns=SCALAR_METRICS)
    bad = frame[(frame.metric == "bad_images").to_numpy()].drop_duplicates(["run", "split"], keep="last")
    found["bad_images"] = bad.groupby("run").value.sum()
    is_top1 = ((frame.metric == "top1_percent") & (frame.split == "val")).to_numpy()
    finite = frame[is_top1 & np.isfinite(frame.value.to_numpy())]
    found[BEST_TOP1] = finite.groupby("run").value.max()
    epochs = pd.concat([frame[["run", "epoch"]], probes.select(["run", "epoch"]).to_pandas()])
    found["epoch"] = epochs.groupby("run").epoch.max()
    found["epoch"] = found.epoch.fillna(0).astype(int)
    return found
