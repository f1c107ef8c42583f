"""Measures the loaders: DALI beside torchvision, and beside bare decoding.

All sides use the same cores and the same photograph-like JPEG files, in pairs. Each measurement starts at the
same step of the same epoch and skips its first batches.
"""

import itertools
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.pairing import Ratio, paired_ratio
from benchmarks.progress import progress_of
from suite.errors import UserError
from suite.experiment import BatchSpec, DataSpec, ModelSpec, RecipeSpec, Run, SystemSpec

if TYPE_CHECKING:
    from suite.data.index import ImageIndex

PHOTOGRAPHS = Path("/usr/share/wallpapers")
CROP_WIDTH, CROP_HEIGHT, JPEG_QUALITY = 500, 375, 92
# Before cropping, a photograph is scaled to cover this many crops a side.
COVER = 1.5
# ImageNet's files take 110 kB on average; much smoother crops (sky, drawings) would not represent them.
MIN_CROP_BYTES = 45_000
NUM_CROPS = 400
WARMUP_BATCHES = 4


@dataclass(frozen=True)
class LoaderBench:
    """Images per second of the training loaders. In each ratio `a` is DALI."""

    num_images: int
    mean_file_kb: float
    num_cores: int
    images_per_batch: int
    vs_torchvision: Ratio
    # `b`: the same cores decode whole files and do nothing else, one thread each.
    vs_bare_decode: Ratio


def bench_loader(
    folder: Path | None = None,
    *,
    images_per_batch: int = 64,
    batches: int = 12,
    rounds: int = 9,
) -> LoaderBench:
    """Measure on the CPU cores that this process may use, with one decoding thread or worker per core.

    `folder` holds train/CLASS/*.jpg; None: crops of real photographs, made in a temporary folder. One
    measurement takes `batches` batches. Raises UserError if there are no photographs or too few images.
    """
    if folder is not None:
        return _bench(folder, images_per_batch, batches, rounds)
    with tempfile.TemporaryDirectory(prefix="shiftbench-photographs-") as made:
        make_photographs(Path(made))
        return _bench(Path(made), images_per_batch, batches, rounds)


def _bench(folder: Path, images_per_batch: int, batches: int, rounds: int) -> LoaderBench:
    from suite.data.index import scan

    index = scan(folder, "train")
    paths = [index.path(image) for image in range(len(index))]
    num_cores = len(os.sched_getaffinity(0))
    run = run_on(folder, len(index.classes), images_per_batch, num_cores)

    def dali() -> float:
        return images_per_s(run, batches)

    def torchvision() -> float:
        data = run.data.model_copy(update={"loader": "torchvision"})
        return images_per_s(run.model_copy(update={"data": data}), batches)

    return LoaderBench(
        num_images=len(index),
        mean_file_kb=float(np.mean([Path(path).stat().st_size for path in paths])) / 1000,
        num_cores=num_cores,
        images_per_batch=images_per_batch,
        vs_torchvision=paired_ratio(dali, torchvision, rounds, progress_of("DALI / torchvision", of=2)),
        vs_bare_decode=paired_ratio(
            dali,
            lambda: decoded_per_s(index, images_per_batch * batches),
            rounds,
            progress_of("DALI / decoding", number=2, of=2),
        ),
    )


def run_on(folder: Path, num_classes: int, images_per_batch: int, num_cores: int) -> Run:
    return Run(
        experiment="bench-loader",
        model=ModelSpec(arch="resnet50"),
        data=DataSpec(name="photographs", path=str(folder), num_classes=num_classes),
        batch=BatchSpec(global_batch_size=images_per_batch),
        recipe=RecipeSpec(),
        system=SystemSpec(data_threads=num_cores),
    )


def decoded_per_s(index: "ImageIndex", count: int) -> float:
    """Return the images/s at which all cores together decode `count` whole files, and do nothing else."""
    from suite.data.vision import decode

    num_cores = len(os.sched_getaffinity(0))
    images = list(itertools.islice(itertools.cycle(range(len(index))), count))

    # Uses all cores at once: other work on the machine then slows both sides alike.
    def every_nth(first: int) -> None:
        for image in images[first::num_cores]:
            decode(index, image)

    with ThreadPoolExecutor(num_cores) as threads:
        start_s = time.perf_counter()
        list(threads.map(every_nth, range(num_cores)))
        return count / (time.perf_counter() - start_s)


def images_per_s(run: Run, batches: int) -> float:
    import torch

    from suite.data import train_loader

    loader = train_loader(run, start_step=0, rank=0, world_size=1, device=torch.device("cpu"))
    iterator = iter(loader)
    for _ in range(WARMUP_BATCHES):
        next(iterator)
    start_s = time.perf_counter()
    num_images = sum(len(batch.labels_N) for batch in itertools.islice(iterator, batches))
    duration_s = time.perf_counter() - start_s
    del iterator
    loader.close()
    return num_images / duration_s


def make_photographs(folder: Path, num_crops: int = NUM_CROPS) -> None:
    """Write crops of this machine's wallpaper photographs to folder/train/.

    Raises UserError if it has none.
    """
    from PIL import Image

    sources = [
        max(photos, key=lambda path: path.stat().st_size)
        for wallpaper in sorted(PHOTOGRAPHS.glob("*/contents/images"))
        if (photos := sorted(wallpaper.glob("*.jpg")))
    ]
    if not sources:
        raise UserError(
            f"no photographs below {PHOTOGRAPHS}: install Debian's plasma-workspace-wallpapers, "
            "or name a folder that holds train/CLASS/*.jpg"
        )
    photographs = []
    for source in sources:
        with Image.open(source) as image:
            scale = COVER * max(CROP_WIDTH / image.width, CROP_HEIGHT / image.height)
            size = round(scale * image.width), round(scale * image.height)
            photographs.append(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))
    rng = np.random.default_rng(0)
    written = 0
    for attempt in range(50 * num_crops):
        image_class = attempt % len(photographs)
        photograph = photographs[image_class]
        left = int(rng.integers(photograph.width - CROP_WIDTH + 1))
        top = int(rng.integers(photograph.height - CROP_HEIGHT + 1))
        path = folder / "train" / f"{image_class:02d}" / f"{written:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        crop = photograph.crop((left, top, left + CROP_WIDTH, top + CROP_HEIGHT))
        crop.save(path, quality=JPEG_QUALITY)
        if path.stat().st_size < MIN_CROP_BYTES:
            path.unlink()
        else:
            written += 1
        if written == num_crops:
            break
    else:
        raise UserError(f"the photographs below {PHOTOGRAPHS} have too little detail to measure a loader")
    for class_folder in (folder / "train").iterdir():
        if not any(class_folder.iterdir()):
            class_folder.rmdir()
