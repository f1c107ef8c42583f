"""`shiftbench compare`: two sets of runs side by side."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def compare(
    a: Annotated[Path, typer.Argument(help="A run folder, or a folder that holds runs.", show_default=False)],
    b: Annotated[
        Path,
        typer.Argument(
            help="What it is compared with. Either may be `paper`, if no folder has that name: its numbers.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for compare.md and compare.csv.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print rows and verdicts as JSON.")] = False,
) -> None:
    """Match the runs of A and B, and end with a verdict for each metric.

    Before and after a change, or one cluster and another: runs are matched by run_id, else by cell and seed.
    Verdicts are over seeds. `compare RUNS paper` sets runs beside the paper's numbers, and tests nothing.
    """
    from reports.collect import cache_folder
    from reports.findings.two_sides import compare as match
    from reports.write.compare_text import comparison_as_plain, print_comparison, write_comparison

    console = Console(stderr=as_json)
    is_paper = [str(side) == "paper" and not side.is_dir() for side in (a, b)]
    if any(is_paper):
        from reports.write.compare_text import (
            beside_paper,
            paper_as_plain,
            print_beside_paper,
            write_beside_paper,
        )

        runs = b if is_paper[0] else a
        cells = beside_paper(runs, cache_folder())
        if as_json:
            typer.echo(json.dumps(paper_as_plain(cells), ensure_ascii=False))
        else:
            print_beside_paper(console, cells)
        _tell(console, write_beside_paper(runs, cells, out) if out is not None else ())
        return
    comparison = match(a, b, cache_folder())
    if as_json:
        typer.echo(json.dumps(comparison_as_plain(comparison), ensure_ascii=False))
    else:
        print_comparison(console, comparison)
    _tell(console, write_comparison(comparison, out) if out is not None else ())


def _tell(console: Console, written: Iterable[Path]) -> None:
    for path in written:
        console.print(f"written: {path}", highlight=False, markup=False, soft_wrap=True)
