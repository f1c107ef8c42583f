"""`shiftbench data`: prepares data sets on disk."""

from pathlib import Path
from typing import Annotated

import typer

from suite.specs.source_table import PREPARABLE, SOURCES

_NAMES = ", ".join(f"{name} (licence: {SOURCES[name].licence})" for name in PREPARABLE)
app = typer.Typer(no_args_is_help=True, help="Prepare data sets on disk.")


@app.command("prepare")
def prepare(
    name: Annotated[str, typer.Argument(help=f"{_NAMES}.")],
    root: Annotated[
        Path | None,
        typer.Option(help="Parent folder; default: $SHIFTBENCH_DATA_DIR, else ~/.cache/shiftbench/data."),
    ] = None,
) -> None:
    """Write a known data set as image files, in ImageFolder's layout or in COCO's, unless it exists."""
    from suite.data.sources import prepare as prepare_source

    typer.echo(prepare_source(name, root))


app.callback()(lambda: None)  # so that `prepare` stays a subcommand
