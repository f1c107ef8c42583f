"""`shiftbench logs`: prints the output of a run's processes."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from jobs.commands import layout
from jobs.commands.submit import OutputOption
from suite.errors import UserError


def logs(
    run: Annotated[
        str,
        typer.Argument(
            help="A name, an id (or the beginning of one), a folder or a job.",
            autocompletion=layout.complete_run,
        ),
    ],
    output_dir: OutputOption = Path("runs"),
    rank: Annotated[int, typer.Option(min=0, help="Of which rank; 0 includes the run's own log.")] = 0,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="The last lines of each file.")] = 50,
) -> None:
    """Print the output of a run's processes: its log, and its job's output and errors."""
    from jobs.cluster.overview import log_files, overview

    chosen = overview(output_dir).select([run])
    if len(chosen) > 1:
        raise UserError(f"{run!r} means {len(chosen)} runs; give one run's id")
    files = log_files(chosen[0], rank)
    if not files:
        raise UserError(f"{chosen[0].folder.name} has no logs yet (state: {chosen[0].state})")
    printed = Counter[str]()
    for path in files:
        try:
            every = path.read_text(errors="replace").splitlines()
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        own, others = Counter[str](), list[str]()
        for line in every:  # a rank's log is on its job's stderr too
            own[line] += bool(line.strip())
            if own[line] == 0 or own[line] > printed[line]:
                others.append(line)
        printed |= own
        if every and not any(map(str.strip, others)):
            continue
        typer.echo(f"==> {path} <==")
        typer.echo("\n".join(others[-lines:]) + "\n")
