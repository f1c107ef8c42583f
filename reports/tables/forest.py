"""The forest plot at the top of a page, a row for each norm at a norm batch, and the table of rankings.

The plot is a table whose last columns are drawn: numbers, intervals and verdicts stay text.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.accuracy import accuracy_title
from reports.aggregate import estimate_of
from reports.findings.ranking import LAYOUT, compared_at, rankings
from reports.findings.two_sides import SAME_POINTS
from reports.frames import CONTEXT, GROUP, Frames
from reports.numbers import EMPTY, Number, bracket_cell, count_cell, estimate_cell, p_cell
from reports.stats import MIN_SEEDS_FOR_A_CLAIM, SIGNIFICANCE, Estimate
from reports.tables.table import Cell, Column, Table

# Rows of all norm batches together: more than these are not read, and a page carries each.
MAX_ROWS = 400
# The verdicts as a page shows them: a sign, so that colour is not alone, and the words.
CHIPS = {
    "better": ("▲", "better"),
    "worse": ("▼", "worse"),
    "no difference": ("=", "no difference"),
    "inconclusive": ("?", "inconclusive"),
    "too few seeds": ("…", "too few seeds"),
    "no pairs": ("–", "no common seed"),
    "baseline": ("●", "baseline"),
}
_MARGIN = 0.04  # of the plot's width, on both sides


@dataclass(frozen=True)
class Bar:
    """An interval and its middle, as percentages of the plot's width; `is_interval`: else both values."""

    low: float
    middle: float
    high: float
    is_interval: bool


@dataclass(frozen=True)
class ForestRow:
    """A norm at one norm batch. `belongs`: its values of the axes that readers filter by.

    `is_best`: whether it may be the best, by seeds enough to tell.
    """

    belongs: dict[str, str]
    norm_batch: str
    model: str
    norm: str
    is_best: bool
    accuracy: Number | str
    difference: Number | str
    shift: Number | str
    verdict: str
    bar: Bar | None

    @property
    def chip(self) -> tuple[str, str]:
        """The sign and the words of its verdict."""
        return CHIPS[self.verdict]


@dataclass(frozen=True)
class Forest:
    """All rows, by model, norm batch and rank. `norm_batches`: those that can be chosen, as texts.

    `ticks`: place in percent and number. `notes`: how to read it.
    """

    rows: list[ForestRow]
    norm_batches: list[str]
    accuracy: str
    baseline: str
    ticks: list[tuple[float, str]]
    has_shift: bool
    notes: list[str]


def forest(
    frames: Frames, ranked: pd.DataFrame, comparison: pd.DataFrame | None, baseline: str | None
) -> Forest | None:
    """What `ranking` and `against_baseline` found, drawn; None where nothing is compared."""
    if ranked.empty or comparison is None or comparison.empty or baseline is None:
        return None
    shown = ranked.head(MAX_ROWS)
    naming = [axis for axis in LAYOUT if ranked[axis].nunique() > 1]
    found = {compared_at(pair): pair for _, pair in comparison.iterrows()}
    pairs = [_pair_of(row, found) for _, row in shown.iterrows()]
    estimates = [None if pair is None else estimate_of(pair, "top1") for pair in pairs]
    ends = [bound for one in estimates if one for bound in (one.low, one.mean, one.high) if bound is not None]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    margin = _MARGIN * ((high - low) or 1.0)
    scale = _Scale(low - margin, high + margin)
    rows = [
        _row(row, pair, estimate, naming, baseline, scale)
        for (_, row), pair, estimate in zip(shown.iterrows(), pairs, estimates, strict=True)
    ]
    sizes = sorted({int(size) for size in shown.norm_batch_size.dropna()})
    return Forest(
        rows,
        [str(size) for size in sizes],
        accuracy_title(frames.counted),
        baseline,
        [(scale.place(tick), f"{tick:+g}".replace("-", "−") if tick else "0") for tick in _ticks(low, high)],
        any(row.shift != EMPTY for row in rows),
        list(_notes(len(ranked), baseline)),
    )


def _pair_of(row: pd.Series, found: Mapping[Any, pd.Series]) -> pd.Series | None:
    """Return a ranked norm's comparison with the baseline: of two without a norm batch, the only one."""
    size = None if pd.isna(row.norm_batch_size) else int(row.norm_batch_size)
    keys = [(tuple(row[LAYOUT]), one, row.norm) for one in (size, None)]
    return next((found[key] for key in keys if key in found), None)


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float

    def place(self, value: float) -> float:
        return round(100 * (value - self.low) / (self.high - self.low), 2)


def _row(
    row: pd.Series,
    pair: pd.Series | None,
    estimate: Estimate | None,
    naming: Sequence[str],
    baseline: str,
    scale: _Scale,
) -> ForestRow:
    size = "" if pd.isna(row.norm_batch_size) else str(row.norm_batch_size)
    accuracy = estimate_of(row, "accuracy")
    bar = None
    if estimate is not None:
        mean = estimate.mean
        low, high = (mean if bound is None else bound for bound in (estimate.low, estimate.high))
        bar = Bar(scale.place(low), scale.place(mean), scale.place(high), estimate.is_claim)
    return ForestRow(
        {axis: str(row[axis]) for axis in (*CONTEXT, "norm")},
        size,
        ", ".join(
            f"{row[axis]} per GPU" if axis == "batch_size_per_gpu" else str(row[axis])
            for axis in naming
            if row[axis] != ""
        ),
        row.norm,
        bool(row.is_best and not row.is_open),
        estimate_cell(accuracy, 0, 2),
        EMPTY if pair is None else estimate_cell(estimate, 0, 2, say_one=False, signed=True),
        EMPTY if pair is None else bracket_cell(estimate_of(pair, "esm"), prefix="× "),
        "baseline" if row.norm == baseline else _verdict(pair, estimate),
        bar,
    )


def _verdict(pair: pd.Series | None, estimate: Estimate | None) -> str:
    if pair is None or estimate is None:
        return "no pairs"
    ends = estimate.interval
    if pair.top1_verdict == "inconclusive" and ends and max(map(abs, ends)) <= SAME_POINTS:
        return "no difference"
    return str(pair.top1_verdict)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between the two, zero among them: at most seven."""
    span = (high - low) or 1.0
    power = 10.0 ** len(str(int(span)))
    steps = (power * part for part in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0))
    step = next(one for one in steps if span / one <= 5)
    return [round(i * step, 10) for i in range(-5, 6) if low <= i * step <= high]


def _notes(rows: int, baseline: str) -> Iterator[str]:
    yield (
        f"Better and worse: p of the paired t-test, adjusted by Holm over all comparisons with {baseline}, "
        f"is below {SIGNIFICANCE:g}. No difference: the 95 % interval is within {SAME_POINTS:g} points. "
        f"★: the best, and those that {MIN_SEEDS_FOR_A_CLAIM} or more seeds do not show to be worse. Bars "
        "are 95 % intervals of the one row; two rings are the values of two seeds."
    )
    if rows > MAX_ROWS:
        yield f"The first {MAX_ROWS} of {rows:,} rows; ranking.csv has all."


def ranking_display(ranked: pd.DataFrame) -> Table | None:
    """A row for each model and norm batch: the norms that may be the best, and the others.

    None where there is one norm alone.
    """
    if ranked.norm.nunique() < 2:
        return None
    naming = [axis for axis in LAYOUT if ranked[axis].nunique() > 1]
    headers = {"arch": "Model", "data": "Data", "settings": "Settings", "global_batch_size": "Global batch"}
    headers |= {"batch_size_per_gpu": "Batch per GPU"}
    has_open = bool(ranked.is_open.any())
    rows: list[list[Cell]] = []
    belongs = []
    for place in rankings(ranked):
        first, best, others = place.iloc[0], place[place.is_best & ~place.is_open], place[~place.is_best]
        size = EMPTY if pd.isna(first.norm_batch_size) else count_cell(int(first.norm_batch_size))
        next_best = others.iloc[0] if len(others) else None
        rows.append(
            [
                size,
                *(str(first[axis]) for axis in naming),
                ", ".join(best.norm) or EMPTY,
                estimate_cell(estimate_of(best.iloc[0], "accuracy"), 0, 2) if len(best) else EMPTY,
                ", ".join(others.norm) or EMPTY,
                *([", ".join(place.norm[place.is_open]) or EMPTY] if has_open else []),
                EMPTY if next_best is None else estimate_cell(estimate_of(next_best, "behind"), 0, 2),
                EMPTY if next_best is None else p_cell(float(next_best.p_holm)),
            ]
        )
        cell = {axis: str(first[axis]) for axis in GROUP if axis in (*CONTEXT, "norm_batch_size")}
        belongs.append({axis: value for axis, value in cell.items() if value != "<NA>"})
    columns = [
        Column("Norm batch"),
        *(Column(headers[axis], "text") for axis in naming),
        Column("Best norms", "sentence"),
        Column("Mean of the first (%)"),
        Column("Significantly worse", "sentence"),
        *([Column("Too few seeds", "sentence")] if has_open else []),
        Column("The next is behind by (points)"),
        Column("p"),
    ]
    notes = [
        "All norms by accuracy at each norm batch; one without BN is the same at each. Significantly worse: "
        f"p of the paired t-test is below {SIGNIFICANCE:g}, adjusted by Holm over all comparisons with the "
        "baseline, or, of two other norms, over all such pairs. The first is the one with the highest mean "
        f"of those with {MIN_SEEDS_FOR_A_CLAIM} or more seeds; with fewer in common a norm is not judged."
    ]
    kept = [place for place in range(len(columns)) if any(str(row[place]) != EMPTY for row in rows)]
    columns, rows = [columns[place] for place in kept], [[row[place] for place in kept] for row in rows]
    return Table("Ranking by norm batch", columns, rows, 0, "", notes, belongs=belongs)
