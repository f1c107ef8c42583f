"""Every cell against the baseline: accuracy and shift, paired by seed."""

import pandas as pd

from reports.findings.baseline_pairs import compared, pair_cells
from reports.findings.shared_layers import mean_over_layers, over_shared_layers
from reports.frames import Frames
from reports.stats import Outcome
from suite.metrics import METRICS, Direction

TOP1 = "top1_percent"


def against_baseline(frames: Frames, baseline: str) -> pd.DataFrame:
    """A row for each cell and each baseline cell that it is compared with: see `pairing.pair_cells`.

    `top1_*` is the difference of final top-1 in points (ours − baseline), `esm_*` the ratio of mean ESM σ
    over the BN layers that both have (ours / baseline): `_mean`, `_low`, `_high`, `_n` (pairs),
    `_effect_size` (Hedges' g_av), `_p` (paired t), `_p_holm` (over all rows), and `_verdict`: better, worse,
    inconclusive, too few seeds, or no pairs.
    """
    pairs = pair_cells(frames, baseline)
    top1 = compared(frames, pairs, frames.completed[["run", TOP1]].rename(columns={TOP1: "value"}))
    esm = over_shared_layers(frames, baseline, "esm_sigma", mean_over_layers)
    esm = compared(frames, pairs, esm, ratio=True)
    top1["verdict"] = [verdict_word(o, METRICS[TOP1].direction) for o in top1.pop("outcome")]
    esm["verdict"] = [verdict_word(o, METRICS["esm_sigma"].direction) for o in esm.pop("outcome")]
    return pd.concat([pairs, top1.add_prefix("top1_"), esm.add_prefix("esm_")], axis=1)


def verdict_word(outcome: Outcome, direction: Direction) -> str:
    """An outcome as better or worse, by the metric's direction; what is neither stays."""
    if outcome in ("higher", "lower") and direction != "neither":
        return "better" if outcome == direction else "worse"
    return outcome
