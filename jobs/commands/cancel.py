"""`shiftbench cancel`: cancels runs that are queued or running."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs.commands.submit import OutputOption, RunsArgument
from suite.errors import UserError


def cancel(
    runs: RunsArgument = None,
    everything: Annotated[bool, typer.Option("--all", help="Every run that is queued or running.")] = False,
    output_dir: OutputOption = Path("runs"),
) -> None:
    """Cancel runs that are queued or running. Running ones write a checkpoint; `retry` resumes them."""
    from jobs.cluster.control import cancel as cancel_runs

    if not runs and not everything:
        raise UserError("name runs, or use --all for every run that is queued or running")
    cancelled, left = cancel_runs(output_dir, runs or [])
    others = f"; {len(left)} left alone: of another user or machine" if left and not runs else ""
    Console(highlight=False).print(f"{len(cancelled)} run{'s'[: len(cancelled) != 1]} cancelled{others}")
