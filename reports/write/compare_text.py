"""Print runs beside other runs or the paper's numbers, and write the comparison as Markdown and as CSV."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from reports.aggregate import estimate_of
from reports.collect import collect
from reports.findings.compare_verdicts import coverage_notes, verdict_sentences
from reports.findings.two_sides import MatchedRuns, comparison_table
from reports.frames import GROUP, build_frames
from reports.numbers import estimate_cell, number
from reports.paper.matching_cells import TOP1, paper_cells
from reports.paper.published import load_paper
from reports.sentences import sentence
from reports.tables.cell_tables import print_table
from reports.tables.side_by_side import paper_table, two_sides_display
from reports.write.markdown import fill
from suite.errors import UserError
from suite.files import write_atomically


def print_comparison(console: Console, comparison: MatchedRuns) -> None:
    """The table, what it covers, and last the verdicts."""
    table = comparison_table(comparison)
    display = two_sides_display(table)
    if display is not None:
        print_table(console, display)
    lines = [f"{side}: {name}" for side, name in zip("AB", comparison.names, strict=True)]
    lines += [display.caption, *display.notes] if display else []
    for line in filter(None, [*lines, *coverage_notes(comparison)]):
        console.print(line, style="dim", markup=False, highlight=False)
    for text in verdict_sentences(comparison, table):
        console.print(text, markup=False, highlight=False)


def comparison_as_plain(comparison: MatchedRuns) -> dict[str, Any]:
    """Return for JSON what `print_comparison` prints."""
    table = comparison_table(comparison)
    return {
        **dict(zip("ab", comparison.names, strict=True)),
        "rows": json.loads(table.to_json(orient="records")),
        "coverage": coverage_notes(comparison),
        "verdicts": verdict_sentences(comparison, table),
    }


def paper_as_plain(cells: pd.DataFrame) -> dict[str, Any]:
    """Return for JSON what `print_beside_paper` prints."""
    return {"cells": json.loads(_rows(cells).to_json(orient="records")), "sentences": paper_sentences(cells)}


def write_comparison(comparison: MatchedRuns, out: Path) -> tuple[Path, Path]:
    """`write_files` of a comparison."""
    table = comparison_table(comparison)
    page = {
        "names": dict(zip("AB", comparison.names, strict=True)),
        "table": two_sides_display(table),
        "coverage": coverage_notes(comparison),
        "verdicts": verdict_sentences(comparison, table),
    }
    return write_files(out, fill("compare.md.j2", **page), table.to_csv(index=False))


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


def beside_paper(runs: Path, cache: Path | None = None) -> pd.DataFrame:
    """The cells below `runs` that the paper measured alike: see `paper_cells`. `cache`: see reports.collect.

    Raises UserError when there is no readable run, or no such cell.
    """
    cells = paper_cells(build_frames(collect([runs], cache)))
    if cells.empty:
        raise UserError(
            f"{runs}: no completed run matches a number of the paper; expected ResNet-50 on ImageNet by its "
            "recipe (docs/reports.md)"
        )
    return cells


def paper_sentences(cells: pd.DataFrame) -> list[str]:
    """By how much each cell differs, what of the paper has no cell, and that nothing is tested."""
    texts = [_difference(row) for _, row in cells.iterrows()]
    missing = [s for s in load_paper().of("noise") if s.id not in set(cells.series)]
    texts += [
        f"{s.norm}: no cell beside the paper's top-1 of {s.values[0]:.1f} % ({s.label})." for s in missing
    ]
    untested = "The paper names no seeds, so nothing is tested;"
    return [*texts, f"{untested} only its top-1 without noise is shown beside runs."]


def _difference(row: pd.Series) -> str:
    """`BN at norm batch 128: 76.10 ± 0.25 over 3 seeds, 0.20 points below the paper's top-1 of 76.3 % …`"""
    head, paper = f"{row.norm} at norm batch {row.norm_batch_size}", f"{row.paper:.1f} % ({row.label})"
    ours = estimate_of(row, TOP1)
    if ours is None:
        return f"{head}: its top-1 was not measured; the paper's is {paper}."
    less = ours.mean - row.paper
    shown = estimate_cell(ours, ours.n, 2, say_one=False)
    texts = {"head": head, "paper": paper, "ours": shown, "seeds": ours.n, "less": less}
    return sentence("beside_paper", **texts, amount=number(abs(less), 2), tolerance=row.tolerance)


def print_beside_paper(console: Console, cells: pd.DataFrame) -> None:
    """The table, its notes, and last the sentences."""
    table = paper_table(cells)
    print_table(console, table)
    for line in filter(None, [table.caption, *table.notes]):
        console.print(line, style="dim", markup=False, highlight=False)
    for text in paper_sentences(cells):
        console.print(text, markup=False, highlight=False)


def write_beside_paper(runs: Path, cells: pd.DataFrame, out: Path) -> tuple[Path, Path]:
    """`write_files` of the cells beside the paper's numbers."""
    page = {"runs": str(runs), "table": paper_table(cells), "sentences": paper_sentences(cells)}
    return write_files(out, fill("beside_paper.md.j2", **page), _rows(cells).to_csv(index=False))


def _rows(cells: pd.DataFrame) -> pd.DataFrame:
    """GROUP, metric, n, paper, label, tolerance, ours, low, high, difference."""
    parts = {"n": f"{TOP1}_n", "ours": f"{TOP1}_mean", "low": f"{TOP1}_low", "high": f"{TOP1}_high"}
    rows = cells.assign(metric=TOP1, **{name: cells[column] for name, column in parts.items()})
    rows["difference"] = rows.ours - rows.paper
    return rows[[*GROUP, "metric", "n", "paper", "label", "tolerance", "ours", "low", "high", "difference"]]
