"""Where every cell stands against the baseline: accuracy and shift, paired by seed."""

from collections.abc import Callable

import pandas as pd

from reports.aggregate import estimate_of
from reports.findings.pairing import BASELINE, compared, pair_cells
from reports.findings.shared_layers import mean_over_layers, over_shared_layers
from reports.frames import Frames
from reports.numbers import EMPTY, bracket_text, estimate_text, p_text, short
from reports.stats import SIGNIFICANCE, Outcome
from reports.tables.cells import by_cell, runs_text
from reports.tables.table import MAX_ROWS, Table
from suite.metrics import METRICS, Direction

TOP1 = "top1_percent"


def standing(frames: Frames, baseline: str) -> pd.DataFrame:
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


def standing_display(frames: Frames, table: pd.DataFrame, baseline: str) -> Table | None:
    """`standing` as text; None where nothing but the baseline was run."""
    if table.empty:
        return None
    shown, left_out = most_different(table, "top1_mean", "standing.csv")
    cells: dict[str, Callable[[pd.Series], str]] = {
        "Runs": runs_text,
        f"{baseline} runs": lambda row: runs_text(row, BASELINE),
        "Pairs": lambda row: str(row.top1_n),
        "Top-1 difference (points)": lambda row: estimate_text(
            estimate_of(row, "top1"), row.top1_n, decimals=2, signed=True
        ),
        "Effect size": lambda row: EMPTY if pd.isna(row.top1_effect_size) else short(row.top1_effect_size),
        "p": lambda row: p_text(row.top1_p_holm),
        f"Against {baseline}": lambda row: str(row.top1_verdict),
        f"ESM σ, × {baseline}'s": lambda row: bracket_text(estimate_of(row, "esm")),
    }
    notes = [
        f"Final top-1 less {baseline}'s, paired by seed, at the same batch per GPU and norm batch. A norm "
        "without BN has no norm batch, and is compared at each.",
        f"Better or worse where p, adjusted by Holm over all {len(table):,} rows, is below {SIGNIFICANCE:g}; "
        "± and brackets are 95 % intervals of the one row. Effect size is Hedges' g_av. Runs that are not "
        "completed are in no difference: they are counted under the runs.",
        f"ESM σ is the mean over the BN layers that a norm shares with {baseline}, whatever else was run.",
        *([left_out] if left_out else []),
    ]
    texts = {"Runs", f"{baseline} runs", f"Against {baseline}"}
    return by_cell(f"Accuracy against {baseline}", shown, cells, notes, texts=texts, at_each=True)


def most_different(table: pd.DataFrame, column: str, file: str) -> tuple[pd.DataFrame, str]:
    """The rows that a page can show: in the table's order, those whose `column` is farthest from zero.

    And a sentence about the others, which `file` has; empty where all are shown.
    """
    if len(table) <= MAX_ROWS:
        return table, ""
    farthest = table[column].abs().fillna(-1.0).nlargest(MAX_ROWS).index
    return table.loc[farthest.sort_values()].reset_index(drop=True), (
        f"The {MAX_ROWS} rows with the largest differences are shown; "
        f"{len(table) - MAX_ROWS:,} more are in {file} beside this report."
    )
