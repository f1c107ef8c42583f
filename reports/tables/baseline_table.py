"""The table of every cell against the baseline: accuracy and shift, paired by seed."""

import pandas as pd

from reports.aggregate import estimate_of
from reports.findings.baseline_pairs import BASELINE
from reports.numbers import bracket_cell, count_cell, estimate_cell, p_cell, short_cell
from reports.stats import SIGNIFICANCE
from reports.tables.cell_tables import MakeCell, by_cell, runs_text
from reports.tables.table import MAX_ROWS, Table


def baseline_display(table: pd.DataFrame, baseline: str) -> Table | None:
    """The rows of `against_baseline` as a table; None where nothing but the baseline was run."""
    if table.empty:
        return None
    shown, left_out = most_different(table, "top1_mean", "standing.csv")
    cells: dict[str, MakeCell] = {
        "Runs": runs_text,
        f"{baseline} runs": lambda row: runs_text(row, BASELINE),
        "Pairs": lambda row: count_cell(row.top1_n),
        "Top-1 difference (points)": lambda row: estimate_cell(
            estimate_of(row, "top1"), row.top1_n, decimals=2, signed=True
        ),
        "Effect size": lambda row: short_cell(row.top1_effect_size),
        "p": lambda row: p_cell(row.top1_p_holm),
        f"Against {baseline}": lambda row: str(row.top1_verdict),
        f"ESM σ, × {baseline}'s": lambda row: bracket_cell(estimate_of(row, "esm")),
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
