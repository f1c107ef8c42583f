"""`shiftbench data`: prepares, imports, packs and checks data sets on disk."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.commands import layout
from suite.specs.source_table import PREPARABLE, SOURCES

_NAMES = ", ".join(f"{name} (licence: {SOURCES[name].licence})" for name in PREPARABLE)
app = layout.subcommands("Prepare, import, pack and check data sets on disk.")
importing = layout.subcommands("Convert a data set as people hold it. Downloads nothing.")
app.add_typer(importing, name="import")
PER_FILE = typer.Option(min=1, help="Images of a data file; 8192 of ImageNet's are close to 1 GB.")
NEW_PACK = typer.Argument(help="A new folder, which becomes a pack: the value of data.path.")


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


@importing.command("voc", cls=layout.Command)
def import_voc(
    folder: Annotated[Path, typer.Argument(help="Such as VOCdevkit/VOC2007.")],
    out: Annotated[Path, typer.Argument(help="A new folder, in COCO's format.")],
) -> None:
    """Convert Pascal VOC to COCO's format; difficult objects become crowds."""
    from suite.detection.voc import import_voc

    for split, (images, boxes, difficult) in import_voc(folder, out).items():
        typer.echo(
            f"{split}: {images} images, {boxes} boxes, {difficult} of them difficult: written as crowds"
        )
    typer.echo(out)


@importing.command("imagenet", cls=layout.Command)
def import_imagenet(
    source: Annotated[Path, typer.Argument(help="Folder with the official tars, or files in another form.")],
    out: Annotated[Path, NEW_PACK],
    val_labels: Annotated[
        Path | None,
        typer.Option(help="Labels of flat validation images, if they are not in SOURCE under a known name."),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            help="Names of numbered classes in the order of their labels, such as synsets, one a line."
        ),
    ] = None,
    num_classes: Annotated[int, typer.Option(min=2, help="Another number is refused.")] = 1000,
    images_per_file: Annotated[int, PER_FILE] = 8192,
) -> None:
    """Pack ImageNet from the official tars, a folder, Kaggle's layout, WebDataset, Parquet or TFRecords."""
    from jobs.commands.pack_progress import shown_packing
    from suite.data.importing import Labels, find_images
    from suite.data.pack_writer import write_pack

    found = find_images(source, Labels(val_labels, classes), num_classes)
    with shown_packing(found.num_images) as on_progress:
        written = write_pack(
            found.sources, found.classes, out, images_per_file=images_per_file, on_progress=on_progress
        )
    typer.echo(written)


@app.command("pack", cls=layout.Command)
def pack(
    folder: Annotated[Path, typer.Argument(help="Folder with train/CLASS/*.jpg, val/CLASS/*.jpg, or both.")],
    out: Annotated[Path, NEW_PACK],
    images_per_file: Annotated[int, PER_FILE] = 8192,
) -> None:
    """Write a folder of image files as a pack: a few large files, from which training reads the same batches.

    The same command continues where it was stopped.
    """
    from jobs.commands.pack_progress import shown_packing
    from suite.data.pack_writer import sources_of, write_pack

    sources, classes = sources_of(folder)
    with shown_packing(sum(len(source.names) for source in sources.values())) as on_progress:
        written = write_pack(sources, classes, out, images_per_file=images_per_file, on_progress=on_progress)
    typer.echo(written)


@app.command("check", cls=layout.Command)
def check(folder: Annotated[Path, typer.Argument(help="A pack.")]) -> None:
    """Read all of a pack and compare each image with its checksum."""
    from jobs.commands.pack_progress import shown_packing
    from suite.data.packs import check_pack, open_pack

    num_images = sum(split.num_images for split in open_pack(folder).splits.values())
    with shown_packing(num_images, "checked") as on_progress:
        pack = check_pack(folder, on_progress)
    typer.echo(f"{pack}: intact")
