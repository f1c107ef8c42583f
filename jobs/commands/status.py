"""`shiftbench status`, `logs` and `cancel`: what became of the runs."""

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
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")] = False,
    every_s: Annotated[float, typer.Option(min=1.0, help="Seconds between two looks.")] = 10.0,
    show_all: Annotated[bool, typer.Option("--all", help="Every run, however many there are.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a run.")] = False,
) -> None:
    """Show each run: state, epoch, top-1, images/s, time left, node, restarts, reason.

    With one run named: all there is to tell of it, the traceback of a rank that died included.
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


def logs(
    run: Annotated[str, typer.Argument(help="A run id (or its beginning), folder or job.")],
    output_dir: OutputOption = Path("runs"),
    rank: Annotated[int, typer.Option(min=0, help="Which rank's; 0 writes the run's own log too.")] = 0,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="The last lines of each file.")] = 50,
) -> None:
    """Print what a run's processes said: its log, and its job's output and errors."""
    from jobs.cluster.log_files import log_files
    from jobs.cluster.overview import overview
    from suite.errors import UserError

    chosen = overview(output_dir).select([run])
    if len(chosen) > 1:
        raise UserError(f"{run!r} means {len(chosen)} runs; give one run's id")
    files = log_files(chosen[0], rank)
    if not files:
        raise UserError(f"{chosen[0].folder.name} has said nothing yet (state: {chosen[0].state})")
    for path in files:
        typer.echo(f"==> {path} <==")
        typer.echo("\n".join(path.read_text(errors="replace").splitlines()[-lines:]) + "\n")


def cancel(
    runs: RunsArgument = None,
    everything: Annotated[bool, typer.Option("--all", help="Every run that is queued or running.")] = False,
    output_dir: OutputOption = Path("runs"),
) -> None:
    """Cancel runs that are queued or running. What runs writes a checkpoint first; `retry` resumes it."""
    from jobs.cluster.control import cancel as cancel_runs
    from jobs.cluster.ledger import Ledger
    from jobs.cluster.overview import overview
    from suite.errors import UserError

    if not runs and not everything:
        raise UserError("say which runs, or --all for every one that is queued or running")
    seen = overview(output_dir)
    cancelled = cancel_runs(seen.select(runs or []), seen.runs, Ledger(output_dir), named=bool(runs))
    overview(output_dir)  # writes down what never began
    left = [run for run in seen.runs if run.state in ("queued", "running") and run not in cancelled]
    others = f"; {len(left)} left alone: not yours, or of a launcher elsewhere" if left and not runs else ""
    Console(highlight=False).print(f"{len(cancelled)} run{'s'[: len(cancelled) != 1]} cancelled{others}")
