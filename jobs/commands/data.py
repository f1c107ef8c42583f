"""`shiftbench data`: get data sets onto the disk."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Get data sets onto the disk.")


@app.command("prepare")
def prepare(
    name: Annotated[str, typer.Argument(help="fashion-mnist or fashion-mnist-7k.")],
    root: Annotated[Path | None, typer.Option(help="Where to; default: $SHIFTBENCH_DATA_DIR.")] = None,
) -> None:
    """Write a known data set as JPEG files in ImageFolder layout; nothing happens when it is there."""
    from suite.data.sources import prepare as prepare_source

    typer.echo(prepare_source(name, root))


@app.callback()
def _group() -> None:
    """Get data sets onto the disk."""
