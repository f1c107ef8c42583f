"""A comparison of two sets of runs in words and tables: for a terminal, as Markdown and as CSV."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
from rich.console import Console

from reports.findings.compare import COMPARED, Compared, MatchedRuns, comparison_table
from reports.findings.compare_verdicts import coverage_notes, verdict_sentences
from reports.frames import GROUP
from reports.numbers import bracket_text, estimate_text, number, plural, short
from reports.stats import CONFIDENCE, SIGNIFICANCE, Estimate
from reports.tables.cells import by_cell, print_table
from reports.tables.table import Table
from reports.write.markdown import escape_markdown, markdown_table
from suite.errors import UserError
from suite.record import write_atomically

MAX_CELLS = 40


def comparison_display(comparison: MatchedRuns, table: pd.DataFrame) -> Table | None:
    """The cells side by side; None where no run completed on both sides."""
    if table.empty:
        return None
    metrics = {metric.column: metric for metric in COMPARED}
    number_of = table.groupby(GROUP, sort=False, dropna=False).ngroup()
    shown = table[number_of < MAX_CELLS]
    cells: dict[str, Callable[[pd.Series], str]] = {
        "Metric": lambda row: metrics[row.metric].title,
        "Pairs": lambda row: str(row.n),
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


def _mean(value: float, metric: Compared) -> str:
    return short(value) if metric.decimals is None else number(value, metric.decimals)


def _estimate(row: pd.Series, metric: Compared) -> str:
    if row.n_equal == row.n:
        return "equal"
    low, high = (None if pd.isna(bound) else float(bound) for bound in (row.low, row.high))
    estimate = Estimate(float(row.estimate), low, high, int(row.n))
    if metric.is_ratio:
        return f"× {bracket_text(estimate)}"
    return estimate_text(estimate, 0, metric.decimals, signed=True)


def print_comparison(console: Console, comparison: MatchedRuns) -> None:
    """The table, what it covers, and last the verdicts."""
    table = comparison_table(comparison)
    display = comparison_display(comparison, table)
    if display is not None:
        print_table(console, display)
    lines = [f"{side}: {name}" for side, name in zip("AB", comparison.names, strict=True)]
    lines += [display.caption, *display.notes] if display else []
    for line in filter(None, [*lines, *coverage_notes(comparison)]):
        console.print(line, style="dim", markup=False, highlight=False)
    for sentence in verdict_sentences(comparison, table):
        console.print(sentence, markup=False, highlight=False)


def write_comparison(comparison: MatchedRuns, out: Path) -> tuple[Path, Path]:
    """Write compare.md and compare.csv into `out`, which is made when missing.

    Raises UserError when they cannot be written.
    """
    table = comparison_table(comparison)
    return write_files(out, _markdown(comparison, table), table.to_csv(index=False))


def write_files(out: Path, markdown: str, csv: str) -> tuple[Path, Path]:
    """Write compare.md and compare.csv into `out`, which is made when missing; their paths.

    Raises UserError when they cannot be written.
    """
    files = {out / "compare.csv": csv, out / "compare.md": markdown}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            write_atomically(path, text)
    except OSError as error:
        raise UserError(f"{out}: the comparison cannot be written: {error.strerror}") from None
    return out / "compare.md", out / "compare.csv"


def _markdown(comparison: MatchedRuns, table: pd.DataFrame) -> str:
    display = comparison_display(comparison, table)
    lines = ["# Two sets of runs compared", ""]
    lines += [f"- {side}: {escape_markdown(name)}" for side, name in zip("AB", comparison.names, strict=True)]
    lines += ["", "## Cells side by side", ""]
    if display is not None:
        lines += [escape_markdown(display.caption), "", markdown_table(display), ""]
        lines += [f"- {escape_markdown(note)}" for note in display.notes]
    lines += [f"- {escape_markdown(note)}" for note in coverage_notes(comparison)]
    lines += ["", "## Verdict", ""]
    lines += [f"- {escape_markdown(sentence)}" for sentence in verdict_sentences(comparison, table)]
    return "\n".join(lines) + "\n"
