"""`shiftbench cancel`: cancels runs that are queued or running."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs import exit_codes
from jobs.commands.submit import NamedRunsArgument, OutputOption
from suite.errors import UserError


def cancel(
    runs: NamedRunsArgument = None,
    everything: Annotated[bool, typer.Option("--all", help="Every run that is queued or running.")] = False,
    output_dir: OutputOption = Path("runs"),
) -> None:
    """Cancel runs that are queued or running, and wait until they have ended, for less than a minute.

    Running ones write a checkpoint; `retry` resumes them.
    """
    from jobs.cluster.control import NoAnswer
    from jobs.cluster.control import cancel as cancel_runs

    if not runs and not everything:
        raise UserError("name runs, or use --all for every run that is queued or running")
    console = Console(highlight=False)
    try:
        cancelled, left, ending = cancel_runs(output_dir, runs or [])
    except NoAnswer as error:
        console.print(_cancelled(error.num_cancelled))
        text = f"error: not every run could be cancelled: {error}; run the same command again later"
        Console(stderr=True, soft_wrap=True, highlight=False).print(text, style="red", markup=False)
        raise typer.Exit(exit_codes.FAILURE) from None
    others = f"; {len(left)} left alone: of another user or machine" if left and not runs else ""
    late = f"; {len(ending)} still ending: `shiftbench status` shows when" if ending else ""
    console.print(_cancelled(len(cancelled)) + others + late)


def _cancelled(number: int) -> str:
    return f"{number} run{'s'[: number != 1]} cancelled"
