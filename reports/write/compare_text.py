"""Print a comparison of two sets of runs, and write it as Markdown and as CSV."""

from pathlib import Path

from rich.console import Console

from reports.findings.compare_verdicts import coverage_notes, verdict_sentences
from reports.findings.two_sides import MatchedRuns, comparison_table
from reports.tables.cell_tables import print_table
from reports.tables.two_sides_table import two_sides_display
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
    for sentence in verdict_sentences(comparison, table):
        console.print(sentence, markup=False, highlight=False)


def write_comparison(comparison: MatchedRuns, out: Path) -> tuple[Path, Path]:
    """Write compare.md and compare.csv into `out`, which is made when missing.

    Raises UserError when they cannot be written.
    """
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
