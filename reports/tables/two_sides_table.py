"""The table of two sets of runs, cell by cell."""

from dataclasses import replace

import pandas as pd

from reports.findings.two_sides import COMPARED, Compared
from reports.frames import GROUP
from reports.numbers import Number, bracket_cell, count_cell, estimate_cell, plural, short_cell
from reports.stats import CONFIDENCE, SIGNIFICANCE, Estimate
from reports.tables.cell_tables import MakeCell, by_cell
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
        f"± and brackets: {100 * CONFIDENCE:g} % interval.",
        "Verdicts are over seeds, never over cells: each seed counts once, as its mean over the cells that "
        "all compared seeds have on both sides.",
        f"The same: the whole interval within {_margin(False)} or {_margin(True)}. Better or worse: p of the "
        f"paired t-test over seeds, adjusted by Holm over the metrics, below {SIGNIFICANCE:g}.",
        "Mean ESM is over the BN layers that all variants of both sides have.",
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
