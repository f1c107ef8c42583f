"""How fast the shift accumulates over depth: the slope of a layer's ESM σ over its place among the layers."""

from collections.abc import Callable
from dataclasses import replace

import pandas as pd

from reports.aggregate import UNFINISHED, estimate_of, summarise
from reports.findings.baseline import Baseline
from reports.findings.baseline_comparison import most_different, verdict_word
from reports.findings.pairing import compared, pair_cells
from reports.findings.shared_layers import over_shared_layers
from reports.frames import GROUP, Frames
from reports.numbers import EMPTY, estimate_text, p_text, plural
from reports.stats import slopes
from reports.tables.cells import by_cell, runs_text
from reports.tables.table import Table
from suite.metrics import METRICS

SLOPES = {"esm_sigma": "sigma_slope", "esm_sigma_scaled": "scaled_slope"}


def run_slopes(frames: Frames) -> pd.DataFrame:
    """For each run the least-squares slopes of ESM σ and of the scaled ESM σ, per layer: run and SLOPES.

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

    And, with a baseline, `difference_*`: of the slope of ESM σ to the baseline's over the layers that both
    have, paired by seed, as in `pairing.compared`.
    """
    runs = frames.runs.merge(run_slopes(frames), on="run")
    table = summarise(replace(frames, runs=runs), list(SLOPES.values()))
    table = table[table[[f"{name}_n" for name in SLOPES.values()]].sum(axis=1) > 0]
    if baseline.label is None:
        return table.reset_index(drop=True)
    pairs = pair_cells(frames, baseline.label)
    pairs = pairs[pairs.has_bn.astype(bool)].reset_index(drop=True)
    shared = over_shared_layers(frames, baseline.label, "esm_sigma", _slope_over_layers)
    differences = compared(frames, pairs, shared).add_prefix("difference_")
    return table.merge(pd.concat([pairs[GROUP], differences], axis=1), on=GROUP, how="left")


def accumulation_display(frames: Frames, table: pd.DataFrame, baseline: Baseline) -> Table | None:
    """`accumulation` as text; None when no completed run was probed at two layers or more."""
    if table.empty:
        return None
    shown, cut = most_different(table, "sigma_slope_mean", "accumulation.csv")
    cells: dict[str, Callable[[pd.Series], str]] = {"Runs": runs_text}
    cells |= {f"{METRICS[metric].title} per layer": _slope(name) for metric, name in SLOPES.items()}
    notes = [
        "The slope of the least-squares line through a run's ESM σ over its BN layers, at their places among "
        "those of all norms here, then the mean over seeds: zero where the shift does not accumulate.",
        *_without_slope(frames, table),
        *([cut] if cut else []),
    ]
    texts = {"Runs"}
    if baseline.label is not None:
        against = f"Against {baseline.label}"
        cells |= {
            f"ESM σ per layer, less {baseline.label}'s": _slope("difference"),
            "p": lambda row: p_text(row.difference_p_holm),
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
    """The cells with BN that have no slope, and so no row, by what became of their runs."""
    cells = summarise(frames, [])
    cells = cells[cells.has_bn.astype(bool)].merge(table[GROUP], on=GROUP, how="left", indicator=True)
    cells = cells[cells["_merge"] == "left_only"]
    if cells.empty:
        return []
    counts = cells[["completed", *UNFINISHED]].sum()
    words = {"completed": "completed without a finite slope", "not_started": "not started"}
    told = [f"{count} {words.get(str(state), state)}" for state, count in counts.items() if count]
    return [f"{plural(len(cells), 'cell')} with BN not in this table: {', '.join(told)}."]


def _slope(name: str) -> Callable[[pd.Series], str]:
    def text(row: pd.Series) -> str:
        if pd.isna(row[f"{name}_n"]):
            return EMPTY
        return estimate_text(estimate_of(row, name), int(row.completed), signed=True)

    return text


def _word(row: pd.Series, baseline: str) -> str:
    """Steeper is worse, as a larger shift is."""
    if row.norm == baseline or pd.isna(row.difference_n):
        return EMPTY
    return verdict_word(row.difference_outcome, METRICS["esm_sigma"].direction)
