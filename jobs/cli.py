"""The command `shiftbench`. Nothing heavy is imported before a command needs it."""

import signal
import sys
from typing import Annotated

import typer
from rich.console import Console

from jobs import exit_codes
from jobs.commands import (
    compare,
    config,
    data,
    doctor,
    probe,
    report,
    reproduce,
    run,
    status,
    submit,
    tune,
)
from suite import __version__
from suite.errors import UserError

app = typer.Typer(
    name="shiftbench",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Benchmark the estimation shift of batch normalisation.",
    epilog="Exit codes: 0 done, 1 failure, 2 bad usage or config, 3 some runs failed, 75 preempted, "
    "130 interrupted.",
)
app.command("run")(run.run)
app.command("submit")(submit.submit)
app.command("tune")(tune.tune)
app.command("status")(status.status)
app.command("logs")(status.logs)
app.command("cancel")(status.cancel)
app.command("retry")(submit.retry)
app.command("doctor")(doctor.doctor)
app.add_typer(config.app, name="config")
app.add_typer(data.app, name="data")
app.command("probe")(probe.probe)
app.command("report")(report.report)
app.command("reproduce")(reproduce.reproduce)
app.command("compare")(compare.compare)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; what the user can fix is one line on stderr and exit code 2."""
    signal.signal(signal.SIGINT, lambda *_: sys.exit(exit_codes.INTERRUPTED))
    try:
        app(prog_name="shiftbench")
    except UserError as error:
        Console(stderr=True).print(
            f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(exit_codes.BAD_USAGE)


if __name__ == "__main__":
    main()
