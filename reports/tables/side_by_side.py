"""The tables of two sets of runs, cell by cell, and of the paper's top-1 beside ours."""

from dataclasses import replace

import pandas as pd

from reports.aggregate import estimate_of
from reports.findings.two_sides import COMPARED, Compared
from reports.frames import BEST_TOP1, GROUP, Frames
from reports.numbers import EMPTY, Number, bracket_cell, count_cell, estimate_cell, plural, short_cell
from reports.paper.matching_cells import EPOCHS, GLOBAL_BATCH, NORM_BATCH, TOP1, paper_cells
from reports.paper.published import LABELS, load_paper
from reports.stats import CONFIDENCE, SIGNIFICANCE, Estimate
from reports.tables.cell_tables import MakeCell, MetricCell, by_cell, runs_text
from reports.tables.table import Table

MAX_CELLS = 40


def two_sides_display(table: pd.DataFrame) -> Table | None:
    """The cells side by side; None where no run completed on both sides."""
    if table.empty:
        return None
    metrics = {metric.column: metric for metric in COMPARED}
    number_of = table.groupby(GROUP, sort=False, dropna=False).ngroup()
    shown = table[number_of < MAX_CELLS]
    cells: dict[str, MakeCell] = {
        "Metric": lambda row: metrics[row.metric].title,
        "Pairs": lambda row: count_cell(row.n),
        "A": lambda row: _mean(row.a, metrics[row.metric]),
        "B": lambda row: _mean(row.b, metrics[row.metric]),
        "B − A, or B / A": lambda row: _estimate(row, metrics[row.metric]),
    }
    notes = [
        f"Means over the pairs. Differences are B − A; where a cell begins with ×, it is the ratio B / A. "
        f"± and brackets: {100 * CONFIDENCE:g} % interval; of two pairs, both values.",
        "Verdicts are over seeds, never over cells: each seed counts once, as its mean over the cells that "
        "all compared seeds have on both sides.",
        f"The same: the whole interval within {_margin(False)} or {_margin(True)}. Better or worse: p of the "
        f"paired t-test over seeds, adjusted by Holm over the metrics, below {SIGNIFICANCE:g}.",
        "Mean scaled ESM is over the BN layers that all variants of both sides have.",
    ]
    left = int(number_of.max()) + 1 - MAX_CELLS
    if left > 0:
        notes.append(f"{plural(left, 'more cell')} not shown; with --out, compare.csv has all.")
    made = by_cell("Cells side by side", shown, cells, notes, texts={"Metric"})
    first = shown.index[number_of[shown.index].diff().fillna(0) != 0]
    return replace(made, breaks=frozenset(int(i) for i in first))


def _margin(is_ratio: bool) -> str:
    margin = next(metric.margin for metric in COMPARED if metric.is_ratio == is_ratio)
    return f"{margin * 100:g} %" if is_ratio else f"{margin:g} points"


def _mean(value: float, metric: Compared) -> Number | str:
    return short_cell(value) if metric.decimals is None else Number(value, metric.decimals)


def _estimate(row: pd.Series, metric: Compared) -> Number | str:
    if row.n_equal == row.n:
        return "equal"
    low, high = (None if pd.isna(bound) else float(bound) for bound in (row.low, row.high))
    estimate = Estimate(float(row.estimate), low, high, int(row.n))
    if metric.is_ratio:
        return bracket_cell(estimate, prefix="× ")
    return estimate_cell(estimate, 0, metric.decimals, signed=True)


def paper_display(frames: Frames) -> Table | None:
    """Top-1 of ResNet-50 on ImageNet by norm; None when no completed run was trained as the paper's were."""
    found = paper_cells(frames)
    return None if found.empty else paper_table(found)


def paper_table(found: pd.DataFrame) -> Table:
    """What `paper_cells` found, as a table."""
    cells: dict[str, MakeCell] = {
        "Runs": runs_text,
        "Top-1, paper (%)": lambda row: Number(row.paper, 1, remark=row.label),
        "Ours, final (%)": MetricCell(TOP1, decimals=2, ranked=False),
        "Ours, best epoch (%)": MetricCell(BEST_TOP1, decimals=2, ranked=False),
        "Final less the paper's": _difference,
    }
    shown = [load_paper()[series] for series in found.series.unique()]
    notes = [
        f"The paper: {load_paper().title}, {load_paper().address}. It names no seeds.",
        *sorted({f"{s.label}: {LABELS[s.label]}, ± {s.tolerance:g} points." for s in shown}),
        f"Ours: the paper's recipe over {EPOCHS[0]} to {EPOCHS[-1]} epochs, global batch {GLOBAL_BATCH}, "
        f"norm batch {NORM_BATCH}; ± is half of a 95 % t interval over seeds; of two seeds both "
        "values are given.",
    ]
    if any(series.network_inferred for series in shown):
        notes.append("The paper's plot does not name its network: that it is ResNet-50 is inferred.")
    return by_cell("Beside the paper", found, cells, notes)


def _difference(row: pd.Series) -> Number | str:
    ours = estimate_of(row, TOP1)
    if ours is None:
        return EMPTY
    return Number(ours.mean - row.paper, 2, signed=True)
