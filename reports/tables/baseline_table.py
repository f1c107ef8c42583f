"""The tables of every cell against the baseline, and of how fast the shift accumulates over depth."""

import pandas as pd

from reports.aggregate import UNFINISHED, estimate_of, summarise
from reports.findings.accumulation import SLOPES
from reports.findings.baseline import BASELINE, Baseline, verdict_word
from reports.frames import GROUP, Frames
from reports.numbers import EMPTY, Number, bracket_cell, count_cell, estimate_cell, p_cell, plural, short_cell
from reports.stats import SIGNIFICANCE
from reports.tables.cell_tables import MakeCell, by_cell, runs_text, title_of
from reports.tables.table import MAX_ROWS, Table
from suite.metrics import METRICS, SHIFT_SIGMA


def baseline_display(table: pd.DataFrame, baseline: str, title: str = "Top-1") -> Table | None:
    """The rows of `against_baseline` as a table; None where nothing but the baseline was run.

    `title`: what the accuracy is called.
    """
    if table.empty:
        return None
    shown, left_out = most_different(table, "top1_mean", "standing.csv")
    cells: dict[str, MakeCell] = {
        "Runs": runs_text,
        f"{baseline} runs": lambda row: runs_text(row, BASELINE),
        "Pairs": lambda row: count_cell(row.top1_n),
        f"{title} difference (points)": lambda row: estimate_cell(
            estimate_of(row, "top1"), row.top1_n, decimals=2, signed=True
        ),
        "Effect size": lambda row: short_cell(row.top1_effect_size),
        "p": lambda row: p_cell(row.top1_p_holm),
        f"Against {baseline}": lambda row: str(row.top1_verdict),
        f"Scaled ESM σ, × {baseline}'s": lambda row: bracket_cell(estimate_of(row, "esm")),
    }
    notes = [
        f"{title}, final, less {baseline}'s, paired by seed, at the same batch per GPU and norm batch. A "
        "norm without BN has no norm batch, and is compared at each.",
        f"Better or worse where p, adjusted by Holm over all {len(table):,} rows, is below {SIGNIFICANCE:g}; "
        "± and brackets are 95 % intervals of the one row; of two pairs both values are given. Effect size "
        "is Hedges' g_av. Runs that are not completed are in no difference: they are counted under the runs.",
        f"Scaled ESM σ is the mean over the BN layers that a norm shares with {baseline}, whatever else was "
        "run.",
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


def accumulation_display(frames: Frames, table: pd.DataFrame, baseline: Baseline) -> Table | None:
    """The rows of `accumulation` as a table; None when no completed run was probed at two layers or more."""
    if table.empty:
        return None
    shown, cut = most_different(table, "scaled_slope_mean", "accumulation.csv")
    cells: dict[str, MakeCell] = {"Runs": runs_text}
    cells |= {f"{title_of(metric)} per layer": _slope(name) for metric, name in SLOPES.items()}
    notes = [
        "The slope of the least-squares line through a run's ESM σ over its BN layers, at their places among "
        "those of all norms here, then the mean over seeds: zero where the shift does not accumulate. Unlike "
        "the scaled one, the raw ESM σ of a layer also depends on its width and on the scale of its input.",
        *_without_slope(frames, table),
        *([cut] if cut else []),
    ]
    texts = {"Runs"}
    if baseline.label is not None:
        against = f"Against {baseline.label}"
        cells |= {
            f"Scaled ESM σ per layer, less {baseline.label}'s": _slope("difference"),
            "p": lambda row: p_cell(row.difference_p_holm),
            against: lambda row: _word(row, str(baseline.label)),
        }
        notes.insert(
            1,
            f"Differences are of slopes over the BN layers that a norm shares with {baseline.label}, paired "
            "by seed; p is adjusted by Holm over all rows.",
        )
        texts.add(against)
    return by_cell("Accumulation over depth", shown, cells, notes, texts=texts)


def _without_slope(frames: Frames, table: pd.DataFrame) -> list[str]:
    """Name the cells with BN that have no slope, and so no row, by the state of their runs."""
    cells = summarise(frames, [])
    cells = cells[cells.has_bn.astype(bool)].merge(table[GROUP], on=GROUP, how="left", indicator=True)
    cells = cells[cells["_merge"] == "left_only"]
    if cells.empty:
        return []
    counts = cells[["completed", *UNFINISHED]].sum()
    words = {"completed": "completed without a finite slope", "not_started": "not started"}
    parts = [f"{count} {words.get(str(state), state)}" for state, count in counts.items() if count]
    return [f"{plural(len(cells), 'cell')} with BN not in this table: {', '.join(parts)}."]


def _slope(name: str) -> MakeCell:
    def cell(row: pd.Series) -> Number | str:
        if pd.isna(row[f"{name}_n"]):
            return EMPTY
        return estimate_cell(estimate_of(row, name), int(row.completed), signed=True)

    return cell


def _word(row: pd.Series, baseline: str) -> str:
    """Steeper is worse, as a larger shift is."""
    if row.norm == baseline or pd.isna(row.difference_n):
        return EMPTY
    return verdict_word(row.difference_outcome, METRICS[SHIFT_SIGMA].direction)
