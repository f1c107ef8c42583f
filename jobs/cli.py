"""The command `shiftbench`. A command imports what it needs only when it is called."""

import io
import os
import resource
import signal
import sys
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from jobs import exit_codes
from jobs.commands import (
    cancel,
    compare,
    config,
    data,
    diagnose,
    doctor,
    init,
    layout,
    logs,
    probe,
    report,
    reproduce,
    retry,
    robust,
    run,
    scale,
    status,
    submit,
    tune,
)
from jobs.local.process_end import exit_with
from suite import __version__
from suite.errors import UserError, missing_extra

app = typer.Typer(
    name="shiftbench",
    cls=layout.Group,
    no_args_is_help=True,
    context_settings=layout.CONTEXT,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Benchmark the estimation shift of batch normalisation.",
    epilog="Exit codes: 0 done, 1 failure, 2 bad usage or config, 3 some runs failed, 75 preempted, "
    "130 interrupted.",
)
TRAIN, FOLLOW, RESULTS = "Train runs", "Follow and control runs", "Results"
NETWORK, SETUP = "Any trained network", "Set up"
layout.add(app, TRAIN, run.run, submit.submit, tune.tune, scale.scale, reproduce.reproduce)
layout.add(app, FOLLOW, status.status, logs.logs, cancel.cancel, retry.retry)
layout.add(app, RESULTS, report.report, compare.compare)
layout.add(app, NETWORK, probe.probe, diagnose.diagnose, robust.robust)
layout.add(app, SETUP, init.init)
app.add_typer(config.app, name="config", rich_help_panel=SETUP)
app.add_typer(data.app, name="data", rich_help_panel=SETUP)
layout.add(app, SETUP, doctor.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
]


@app.callback()
def _options(version: VersionOption = False) -> None:
    pass


def main() -> None:
    """Run the command line. A UserError exits with 2, an OSError with 1, each after one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path need not be text, nor a terminal take all of it
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGINT, lambda *_: sys.exit(exit_codes.INTERRUPTED))
    try:
        app(prog_name="shiftbench")
    except UserError as error:
        _print_error(str(error))
        sys.exit(exit_codes.BAD_USAGE)
    except (ImportError, MemoryError) as error:
        if (sentence := missing_extra(error)) is not None:
            _print_error(sentence)
            sys.exit(exit_codes.BAD_USAGE)
        limit_bytes, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit_bytes == resource.RLIM_INFINITY:
            raise
        limit = f"this shell's limit on address space (ulimit -v) of {limit_bytes / 2**30:.1f} GiB is too low"
        _print_error(f"{limit}: {str(error) or 'out of memory'}; raise it, or use a compute node")
        sys.exit(exit_codes.FAILURE)
    except OSError as error:
        if error.filename is None:
            raise
        _print_error(f"{os.fsdecode(error.filename)}: {error.strerror}")
        sys.exit(exit_codes.FAILURE)


def _print_error(message: str) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    console.print(f"error: {message}", style="red", markup=False)


def program() -> NoReturn:
    """Run the command line as this process, which then ends."""
    exit_with(main)


if __name__ == "__main__":
    program()
