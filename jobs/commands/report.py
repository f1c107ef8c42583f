"""`shiftbench report`: from records to pages."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders that hold them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the report.")] = Path("out"),
) -> None:
    """Write page, Markdown, tables, figures and data, and print the summary table."""
    from reports.build import build_report
    from reports.tables import print_summary

    console = Console()
    files = build_report(runs, out)
    print_summary(console, files.records)
    console.print(f"report: {files.html}", highlight=False, soft_wrap=True)
