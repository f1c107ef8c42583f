"""Measures how fast data are packed, imported and read, beside `cp`, `tar` and the folder itself.

Everything lies in a temporary folder: photographs in class folders, the official tars of them, and packs.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.pairing import Ratio, paired_ratio
from benchmarks.printing import show
from benchmarks.progress import progress_of
from suite.errors import UserError

# The official tars to class folders, as the usual instructions have it; the validation images stay flat.
UNPACK = """
set -e
mkdir -p "$2/train" "$2/val"
tar -xf "$1/ILSVRC2012_img_val.tar" -C "$2/val"
tar -xf "$1/ILSVRC2012_img_train.tar" -C "$2/train"
for tar in "$2"/train/*.tar; do
    mkdir "${tar%.tar}"
    tar -xf "$tar" -C "${tar%.tar}"
    rm "$tar"
done
"""
CLASSES, IMAGES_PER_BATCH = 20, 64
NUM_FILES = 32
TRAIN_OF_TEN = 9
"""Of ten images, so many are for training."""


@dataclass(frozen=True)
class DataBench:
    """Ratios of speeds, of which `a` is ours. `cold`: files' pages are dropped before each measurement."""

    num_images: int
    mean_file_kb: float
    ratios: dict[str, Ratio]


def bench_data(
    images: int, rounds: int, batches: int, photographs: Path | None = None, below: Path | None = None
) -> DataBench:
    """Measure with so many copies of JPEG files, in a temporary folder `below`.

    `photographs`: a folder of them; None: crops of this machine's. Raises UserError if there are none.
    """
    from benchmarks.loader import NUM_CROPS, make_photographs

    with tempfile.TemporaryDirectory(prefix="shiftbench-data-", dir=below) as made:
        work, folder = Path(made), Path(made) / "folder"
        if photographs is None:
            make_photographs(photographs := work / "photographs", min(NUM_CROPS, images))
        files = sorted(path for path in photographs.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        if not files:
            raise UserError(f"--photographs {photographs}: holds no JPEG files")
        for number in range(images):
            shutil.copyfile(files[number % len(files)], _place(folder, number))
        num_bytes = sum(path.stat().st_size for path in folder.rglob("*.JPEG"))
        ratios = _writing(folder, work, num_bytes, rounds) | _reading(folder, work, rounds, batches)
    return DataBench(images, num_bytes / images / 1000, ratios)


def _place(folder: Path, number: int) -> Path:
    """Return the path of an image, in the class folders of both splits in turn."""
    group, place = divmod(number, 10)
    split = "train" if place < TRAIN_OF_TEN else "val"
    path = folder / split / f"n{group % CLASSES:08d}" / f"{split}_{number:07d}.JPEG"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


# ------------------------------------------------------------ writing


def _writing(folder: Path, work: Path, num_bytes: int, rounds: int) -> dict[str, Ratio]:
    """Compare packing with cp and tar, and importing tars with unpacking and with copying them.

    In MB/s, until all of it is on the disk.
    """
    from suite.data.importing import Labels, find_images
    from suite.data.index import scan
    from suite.data.pack_writer import sources_of, write_pack

    tars, out = work / "tars", work / "out"
    num_images = sum(1 for _ in folder.rglob("*.JPEG"))
    # ImageNet's are many data files, each of which one thread writes.
    images_per_file = num_images // NUM_FILES
    write_official_tars(folder, tars)

    def pack() -> None:
        scan.cache_clear()
        write_pack(*sources_of(folder), out, images_per_file=images_per_file)

    def import_tars() -> None:
        found = find_images(tars, Labels(), None)
        write_pack(found.sources, found.classes, out, images_per_file=images_per_file)

    def rate(write: Callable[[], object]) -> float:
        os.sync()  # what was written before must not be written meanwhile
        start_s = time.perf_counter()
        write()
        os.sync()  # a pack is on the disk when it appears; cp and tar leave that to the system
        duration_s = time.perf_counter() - start_s
        if out.is_dir():
            shutil.rmtree(out)
        else:
            out.unlink()
        return num_bytes / 1e6 / duration_s

    sides: dict[str, tuple[Callable[[], object], list[str | Path]]] = {
        "pack / cp -r": (pack, ["cp", "-r", folder, out]),
        "pack / tar": (pack, ["tar", "-cf", out, "-C", folder, "."]),
        "import / unpacking by tar": (import_tars, ["sh", "-c", UNPACK, "sh", tars, out]),
        "import / cp of the tars": (import_tars, ["cp", "-r", tars, out]),
    }
    ratios = {}
    for number, (name, (ours, command)) in enumerate(sides.items(), 1):
        theirs = partial(subprocess.run, command, check=True)
        progress = progress_of(name, number=number, of=len(sides))
        ratios[f"{name} (MB/s)"] = paired_ratio(partial(rate, ours), partial(rate, theirs), rounds, progress)
    return ratios


def write_official_tars(folder: Path, tars: Path) -> None:
    """Write a tar of class tars, a tar of flat validation images, and a list of their synsets."""
    class_tars, flat = tars.with_name("class-tars"), tars.with_name("flat")
    for one in (tars, class_tars, flat):
        one.mkdir()
    for one in (folder / "train").iterdir():
        _tar(class_tars / f"{one.name}.tar", one)
    labels = {}
    for path in (folder / "val").rglob("*.JPEG"):
        (flat / path.name).hardlink_to(path)
        labels[path.name] = path.parent.name
    for name, source in (("train", class_tars), ("val", flat)):
        _tar(tars / f"ILSVRC2012_img_{name}.tar", source)
        shutil.rmtree(source)
    lines = "".join(f"{labels[name]}\n" for name in sorted(labels))
    (tars / "imagenet_2012_validation_synset_labels.txt").write_text(lines)


def _tar(path: Path, folder: Path) -> None:
    names = sorted(one.name for one in folder.iterdir())
    subprocess.run(["tar", "-cf", path, "-C", folder, *names], check=True)


# ------------------------------------------------------------ reading


def _reading(folder: Path, work: Path, rounds: int, batches: int) -> dict[str, Ratio]:
    """Compare the loaders' speed from a pack with that from the folder; images/s."""
    from benchmarks.loader import decoded_per_s, images_per_s, run_on
    from suite.data.index import scan
    from suite.data.pack_writer import sources_of, write_pack

    pack = write_pack(*sources_of(folder), work / "pack").folder
    os.sync()  # only pages that are written can be dropped
    cores = len(os.sched_getaffinity(0))

    def speed(place: Path, loader: str, cache: str) -> float:
        run = run_on(place, CLASSES, IMAGES_PER_BATCH, cores)
        data = run.data.model_copy(update={"loader": loader})
        if cache == "cold":
            _drop_pages(place)
        return images_per_s(run.model_copy(update={"data": data}), batches)

    ratios = {}
    for number, (loader, cache) in enumerate(product(("dali", "torchvision"), ("warm", "cold")), 1):
        name = f"{loader}, {cache}: pack / folder"
        of_pack, of_folder = (partial(speed, place, loader, cache) for place in (pack, folder))
        progress = progress_of(name, number=number, of=5)
        ratios[f"{name} (images/s)"] = paired_ratio(of_pack, of_folder, rounds, progress)
    of_pack = partial(speed, pack, "dali", "warm")
    bare = partial(decoded_per_s, scan(folder, "train"), IMAGES_PER_BATCH * batches)
    name = "dali, warm: pack / bare decoding"
    ratios[f"{name} (images/s)"] = paired_ratio(of_pack, bare, rounds, progress_of(name, number=5, of=5))
    return ratios


def _drop_pages(folder: Path) -> None:
    """Have the kernel drop the files' pages, which needs no rights. It keeps their names and sizes."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# ------------------------------------------------------------ the command


def data(
    images: Annotated[
        int, typer.Option(min=400, help="JPEG files to pack, copies of the photographs.")
    ] = 8000,
    entries: Annotated[int, typer.Option(min=1000, help="Empty files to list.")] = 1_281_167,
    rounds: Annotated[int, typer.Option(min=1, help="Pairs of measurements.")] = 7,
    batches: Annotated[int, typer.Option(min=1, help="Batches of 64 images that a loader gives.")] = 12,
    photographs: Annotated[
        Path | None, typer.Option(help="Folder of JPEGs; default: photographs cropped to 500 × 375.")
    ] = None,
    below: Annotated[
        Path | None, typer.Option(help="Folder for what is written; default: the system's temporary folder.")
    ] = None,
) -> None:
    """Compare packing, importing and reading packs with cp, tar and the folder; measure lists of files."""
    from benchmarks.data_index import bench_index, print_index

    index = bench_index(entries, below)
    result = bench_data(images, rounds, batches, photographs, below)
    targets = {name: "≥ 0.8" if "MB/s" in name else "≥ 1.0" for name in result.ratios if "cold" not in name}
    targets["dali, warm: pack / bare decoding (images/s)"] = "≥ 0.80"
    del targets["import / cp of the tars (MB/s)"]  # which copies two files without reading them
    show(result.ratios, targets)
    console = Console()
    console.print(f"{result.num_images} files of {result.mean_file_kb:.0f} kB on average", highlight=False)
    print_index(console, index)
