"""`shiftbench report`: from records to pages."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders that hold them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the report.")] = Path("out"),
    baseline: Annotated[
        str | None,
        typer.Option(
            help="Norm that the others are compared with, such as bn or XBN-P2-GN8.",
            show_default="BN where it was run",
        ),
    ] = None,
) -> None:
    """Write page, Markdown, tables, figures and data, and print the summary table."""
    from reports.build import build_report
    from reports.collect import cache_folder
    from reports.tables import print_summary

    console = Console()
    files = build_report(runs, out, baseline, cache=cache_folder())
    print_summary(console, files.frames)
    console.print(f"report: {files.html}", highlight=False, soft_wrap=True)
