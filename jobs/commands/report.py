"""`shiftbench report`: from records to pages."""

import json
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from jobs.page_server import PageServer
from suite.errors import UserError

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
    serve: Annotated[
        bool,
        typer.Option(
            "--serve", help="Serve the page until Ctrl-C, and print the SSH tunnel that leads to it."
        ),
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port of --serve; 0: any free one.", show_default="8765, or the next"
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Write the report again until all runs have ended; an open page reloads itself."
        ),
    ] = False,
    every_s: Annotated[int, typer.Option(min=1, help="Seconds between two reports of --watch.")] = 15,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the answer and the cells as JSON, and the rest on stderr.")
    ] = False,
) -> None:
    """Write index.html, report.md, tables, figures and data, and print the summary table and the verdicts.

    Runs that have not changed since the last report are not read again (~/.cache/shiftbench).
    """
    if port is not None and not serve:
        raise UserError("--port is that of --serve; add --serve")
    progress = _Progress()
    with progress:
        from reports.collect import Collection, cache_folder, collect
        from reports.tables.cell_tables import print_summary
        from reports.write.report_folder import ReportFiles, follow, write_report

    console = Console(soft_wrap=True, highlight=False, markup=False, stderr=as_json)
    is_open = False
    server: PageServer | None = None

    def read() -> Collection:
        with progress:
            progress.tell("reading runs", 0, 0)
            return collect(runs, cache_folder())

    def build(collection: Collection, reload_s: int | None) -> ReportFiles:
        with progress:
            return write_report(collection, runs, out, baseline, reload_s, on_progress=progress.tell)

    def show(files: ReportFiles) -> None:
        nonlocal is_open, server
        if serve and server is None:
            server = PageServer(out, runs, port)
            console.print(f"on your own machine: {server.tunnel}\nthen open {server.address}")
        if open_page and not is_open:
            page = server.way_in() if server else files.html
            if not webbrowser.open(page.absolute().as_uri()):
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
    if as_json:
        typer.echo(json.dumps(files.as_plain(), ensure_ascii=False))
    else:
        print_summary(Console(), files.frames)
        _print_verdicts(files)
    collection = files.frames.collection
    console.print(
        f"report: {files.html} ({collection.num_read} of {collection.num_runs} runs read, the others cached)"
    )
    if files.left_out:
        console.print(f"note: {files.left_out}", style="yellow")
    show(files)
    if server is not None:
        console.print("serving until Ctrl-C")
        try:
            server.wait()
        except (KeyboardInterrupt, SystemExit):  # the command line makes the latter of signals
            console.print("ended")
        finally:
            server.close()


class _Progress:
    """A line on the terminal that says what is done now; silent where there is no terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._status = self._console.status("starting")

    def __enter__(self) -> None:
        self._status.start()

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def tell(self, what: str, done: int, total: int) -> None:
        """Show a step, and how far it is where that is counted."""
        self._status.update(f"{what}: {done} of {total}" if total else what)


def _print_verdicts(files: "ReportFiles") -> None:
    """Print what the runs prove of the norms, as the page's first section says it."""
    console = Console(highlight=False)
    console.print(files.answer.headline, style="bold", markup=False)
    if files.answer.command:
        console.print(f"to add seeds: {files.answer.command}", markup=False, soft_wrap=True)
    sentences = [sentence for verdict in files.verdicts for sentence in verdict.sentences]
    for sentence in sentences[:MAX_SENTENCES]:
        console.print(sentence, markup=False)
    if (more := len(sentences) - MAX_SENTENCES) > 0:
        console.print(f"{more} more sentences are in the report.", markup=False)
