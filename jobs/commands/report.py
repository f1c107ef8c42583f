"""`shiftbench report`: from records to pages."""

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from reports.write.report_folder import ReportFiles

MAX_SENTENCES = 6


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders that hold them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the report.")] = Path("out"),
    baseline: Annotated[
        str | None,
        typer.Option(
            help="Norm that all others are compared with, such as bn or XBN-P2-GN8.",
            show_default="BN where it was run",
        ),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in your browser.")] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Write the report again until all runs have ended; an open page reloads itself."
        ),
    ] = False,
    every_s: Annotated[int, typer.Option(min=1, help="Seconds between two reports of --watch.")] = 15,
) -> None:
    """Write index.html, report.md, tables, figures and data, and print the summary table and the verdicts.

    Runs that have not changed since the last report are not read again (~/.cache/shiftbench).
    """
    from reports.collect import Collection, cache_folder, collect
    from reports.tables.cell_tables import print_summary
    from reports.write.report_folder import ReportFiles, follow, write_report
    from suite.errors import UserError

    console = Console(soft_wrap=True, highlight=False, markup=False)
    is_open = False

    def read() -> Collection:
        return collect(runs, cache_folder())

    def build(collection: Collection, reload_s: int | None) -> ReportFiles:
        return write_report(collection, runs, out, baseline, reload_s)

    def show(files: ReportFiles) -> None:
        nonlocal is_open
        if open_page and not is_open and not webbrowser.open(files.html.absolute().as_uri()):
            console.print(f"no browser could be opened; the page is {files.html}", style="yellow")
        is_open = True

    def on_report(files: ReportFiles, unfinished: int) -> None:
        show(files)
        console.print(
            f"{unfinished} of {files.num_runs} runs have not ended; {files.html} is updated every {every_s} s"
        )

    def on_waiting(error: UserError) -> None:
        console.print(f"waiting: {error}", style="yellow")

    files = follow(read, build, every_s, on_report, on_waiting) if watch else build(read(), None)
    print_summary(Console(), files.frames)
    _print_verdicts(files)
    collection = files.frames.collection
    console.print(
        f"report: {files.html} ({collection.num_read} of {collection.num_runs} runs read, the others cached)"
    )
    if files.left_out:
        console.print(f"note: {files.left_out}", style="yellow")
    show(files)


def _print_verdicts(files: "ReportFiles") -> None:
    """Print what the runs prove of the norms, as the page's first section says it."""
    console = Console(highlight=False)
    sentences = [sentence for verdict in files.verdicts for sentence in verdict.sentences]
    for sentence in sentences[:MAX_SENTENCES]:
        console.print(sentence, style="bold", markup=False)
    if (more := len(sentences) - MAX_SENTENCES) > 0:
        console.print(f"{more} more sentences are in the report.", markup=False)
