"""`shiftbench status`: shows the state of every run."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, RenderableType

from jobs.commands.submit import OutputOption, RunsArgument


def status(
    runs: RunsArgument = None,
    output_dir: OutputOption = Path("runs"),
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
    every_s: Annotated[float, typer.Option(min=1.0, help="Seconds between refreshes.")] = 10.0,
    show_all: Annotated[bool, typer.Option("--all", help="Every run, however many there are.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each run.")] = False,
) -> None:
    """Show each run: state, epoch, top-1, images/s, time left, node, restarts, reason.

    If one run is named: show all its details, with the traceback of a rank that failed.
    """
    from jobs.cluster.overview import overview
    from jobs.commands.status_view import as_plain, details, table

    console = Console(highlight=False)
    if as_json:
        found = overview(output_dir)
        for run in found.select(runs or []):
            typer.echo(json.dumps(as_plain(run)))
        for note in found.notes:
            typer.echo(f"note: {note}", err=True)
        return

    def look() -> RenderableType:
        seen = overview(output_dir)
        chosen = seen.select(runs or [])
        if len(chosen) == 1 and runs:
            return details(chosen[0], seen.notes)
        limit = None if show_all else max(10, console.height - 8) if console.is_terminal else 50
        return table(chosen, seen.notes, limit, console.width)

    if not watch:
        console.print(look())
        return
    from rich.live import Live

    with Live(look(), console=console, auto_refresh=False, screen=False) as live:
        while True:
            time.sleep(every_s)
            live.update(look(), refresh=True)
