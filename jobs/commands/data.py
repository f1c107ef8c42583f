"""`shiftbench data`: prepares and converts data sets on disk."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from jobs.commands import layout
from suite.specs.source_table import PREPARABLE, SOURCES

_NAMES = ", ".join(f"{name} (licence: {SOURCES[name].licence})" for name in PREPARABLE)
app = layout.subcommands("Prepare and convert data sets on disk.")


@app.command("prepare", cls=layout.Command)
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


@app.command("import", cls=layout.Command)
def import_data(
    kind: Annotated[Literal["voc"], typer.Argument(help="voc: Pascal VOC.")],
    folder: Annotated[Path, typer.Argument(help="Such as VOCdevkit/VOC2007.")],
    out: Annotated[Path, typer.Argument(help="A new folder, in COCO's format.")],
) -> None:
    """Convert a data set for detection to COCO's format; difficult objects become crowds."""
    from suite.detection.voc import import_voc

    for split, (images, boxes, difficult) in import_voc(folder, out).items():
        typer.echo(
            f"{split}: {images} images, {boxes} boxes, {difficult} of them difficult: written as crowds"
        )
    typer.echo(out)
