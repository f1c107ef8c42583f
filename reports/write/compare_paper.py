"""Runs beside the paper's numbers, in words and tables: for a terminal, as Markdown and as CSV."""

from pathlib import Path

import pandas as pd
from rich.console import Console

from reports.aggregate import estimate_of
from reports.collect import collect
from reports.frames import GROUP, build_frames
from reports.numbers import estimate_cell, number, plural
from reports.paper.matching_cells import TOP1, paper_cells
from reports.paper.published import load_paper
from reports.tables.cell_tables import print_table
from reports.tables.paper_table import paper_table
from reports.write.compare_text import write_files
from reports.write.markdown import escape_markdown, markdown_table
from suite.errors import UserError

_NO_TEST = "The paper tells no seeds, so nothing is tested; only its top-1 without noise is set beside runs."


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
    told = [_difference(row) for _, row in cells.iterrows()]
    missing = [s for s in load_paper().of("noise") if s.id not in set(cells.series)]
    told += [
        f"{s.norm}: no cell beside the paper's top-1 of {s.values[0]:.1f} % ({s.label})." for s in missing
    ]
    return [*told, _NO_TEST]


def _difference(row: pd.Series) -> str:
    """`BN at norm batch 128: 76.10 ± 0.25 over 3 seeds, 0.20 points below the paper's top-1 of 76.3 % …`"""
    head, paper = f"{row.norm} at norm batch {row.norm_batch_size}", f"{row.paper:.1f} % ({row.label})"
    ours = estimate_of(row, TOP1)
    if ours is None:
        return f"{head}: its top-1 was not measured; the paper's is {paper}."
    less = ours.mean - row.paper
    amount = number(abs(less), 2)
    where = f"{amount} points {'from' if amount == '0.00' else 'above' if less > 0 else 'below'}"
    read = f"± {row.tolerance:g}, as far as it can be read"
    is_near = abs(less) <= row.tolerance + 1e-9
    seeds = plural(ours.n, "seed")
    return (
        f"{head}: {estimate_cell(ours, ours.n, 2, say_one=False)} over {seeds}, {where} the paper's top-1 of "
        f"{paper}, {'within' if is_near else 'beyond'} its {read}."
    )


def print_beside_paper(console: Console, cells: pd.DataFrame) -> None:
    """The table, its notes, and last the sentences."""
    table = paper_table(cells)
    print_table(console, table)
    for line in filter(None, [table.caption, *table.notes]):
        console.print(line, style="dim", markup=False, highlight=False)
    for sentence in paper_sentences(cells):
        console.print(sentence, markup=False, highlight=False)


def write_beside_paper(runs: Path, cells: pd.DataFrame, out: Path) -> tuple[Path, Path]:
    """Write compare.md and compare.csv into `out`. Raises UserError when they cannot be written."""
    table = paper_table(cells)
    lines = ["# Runs beside the paper", "", f"- Runs: {escape_markdown(str(runs))}", ""]
    lines += [*([escape_markdown(table.caption), ""] if table.caption else []), markdown_table(table), ""]
    lines += [f"- {escape_markdown(note)}" for note in table.notes]
    lines += ["", "## By how much ours differs", ""]
    lines += [f"- {escape_markdown(sentence)}" for sentence in paper_sentences(cells)]
    return write_files(out, "\n".join(lines) + "\n", _rows(cells).to_csv(index=False))


def _rows(cells: pd.DataFrame) -> pd.DataFrame:
    """GROUP, metric, n, paper, label, tolerance, ours, low, high, difference."""
    parts = {"n": f"{TOP1}_n", "ours": f"{TOP1}_mean", "low": f"{TOP1}_low", "high": f"{TOP1}_high"}
    rows = cells.assign(metric=TOP1, **{name: cells[column] for name, column in parts.items()})
    rows["difference"] = rows.ours - rows.paper
    return rows[[*GROUP, "metric", "n", "paper", "label", "tolerance", "ours", "low", "high", "difference"]]
