"""`shiftbench compare`: two sets of runs side by side."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def compare(
    a: Annotated[Path, typer.Argument(help="A run folder, or a folder that holds runs.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="What it is compared with.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for compare.md and compare.csv.", show_default=False),
    ] = None,
) -> None:
    """Match the runs of A and B, and end with a verdict for each metric.

    Before and after a change, or one cluster and another: runs are matched by run_id, else by cell and seed.
    """
    from reports.collect import cache_folder
    from reports.findings.compare import compare as match
    from reports.write.compare_text import print_comparison, write_comparison

    console = Console()
    comparison = match(a, b, cache_folder())
    print_comparison(console, comparison)
    if out is not None:
        for path in write_comparison(comparison, out):
            console.print(f"written: {path}", highlight=False, soft_wrap=True)
