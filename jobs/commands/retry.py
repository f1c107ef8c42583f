"""`shiftbench retry`: submits runs again that did not complete."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs import exit_codes
from jobs.commands.submit import OutputOption, RunsArgument, print_submitted
from suite.errors import UserError


def retry(
    runs: RunsArgument = None,
    failed: Annotated[bool, typer.Option("--failed", help="Failed, cancelled and preempted runs.")] = False,
    cluster: Annotated[str | None, typer.Option("-c", "--cluster", help="Default: each run's last.")] = None,
    output_dir: OutputOption = Path("runs"),
) -> None:
    """Submit runs again that did not complete; they resume from their newest checkpoint.

    Runs that were cancelled and are still ending are waited for, for less than a minute.
    """
    from jobs.cluster.control import retry as retry_runs

    if not runs and not failed:
        raise UserError("name runs, or use --failed for all that failed, were cancelled or were preempted")
    submitted, refused = retry_runs(output_dir, runs or [], cluster)
    console = Console(soft_wrap=True, highlight=False)
    if not submitted and not refused:
        console.print("nothing to retry")
    for done in submitted:
        print_submitted(console, done, output_dir)
    if refused:
        raise UserError("; ".join(refused))
    if any(done.ending for done in submitted):
        raise typer.Exit(exit_codes.SOME_RUNS_FAILED)
