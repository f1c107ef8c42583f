"""Getting a data set onto disk as JPEG files in ImageNet's layout. No torch here."""

import os
import shutil
import tempfile
from pathlib import Path

from suite.data.idx import PREFIXES, Bytes, fashion_mnist_folder, read_split
from suite.errors import UserError
from suite.experiment import NUM_CLASSES, DataSpec

SUBSET_FOLDER = Path(__file__).parent / "fashion_mnist_7k"
# In the order of the labels; the number keeps it when folders are sorted.
FASHION_CLASSES = (
    "0-t-shirt",
    "1-trouser",
    "2-pullover",
    "3-dress",
    "4-coat",
    "5-sandal",
    "6-shirt",
    "7-sneaker",
    "8-bag",
    "9-ankle-boot",
)
JPEG_QUALITY = 95


def default_root() -> Path:
    """Where prepared data sets lie: $SHIFTBENCH_DATA_DIR, else ~/.cache/shiftbench/data."""
    root = os.environ.get("SHIFTBENCH_DATA_DIR")
    return Path(root).expanduser() if root else Path.home() / ".cache" / "shiftbench" / "data"


def dataset_folder(data: DataSpec) -> Path:
    """The folder that holds train/ and val/; a known source is prepared if it is not there yet."""
    if data.path is None:
        return prepare(data.name)
    folder = Path(data.path).expanduser()
    if not folder.is_dir():
        raise UserError(f"data.path: {folder} is not a folder; expected one that holds train/ and val/")
    return folder


def prepare(name: str, root: Path | None = None) -> Path:
    """Write a known source below `root`, unless it is there, and return its folder.

    A folder is there completely or not at all, also when several processes prepare it at once.
    Raises UserError for a source that cannot be prepared, and for a root that cannot be written.
    """
    if name == "imagenet":
        raise UserError(
            "imagenet cannot be downloaded: set data.path to the folder that holds "
            "train/n01440764/*.JPEG … and val/n01440764/*.JPEG …"
        )
    if name == "synthetic":
        raise UserError("synthetic needs no preparation: its tensors are made on the device")
    if name not in NUM_CLASSES:
        raise UserError(f"unknown data set {name!r}; known are {', '.join(NUM_CLASSES)}")
    root = default_root() if root is None else root
    folder = root / name
    if folder.is_dir():
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
        try:
            source = SUBSET_FOLDER if name == "fashion-mnist-7k" else fashion_mnist_folder(draft)
            images = draft / name
            for split in PREFIXES:
                _write_jpegs(images / split, *read_split(source, split))
            _publish(images, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        where = error.filename or root
        raise UserError(f"{where}: {name} cannot be written there: {error.strerror}") from None
    return folder


def _write_jpegs(folder: Path, images_NHW: Bytes, labels_N: Bytes) -> None:
    from PIL import Image

    for name in FASHION_CLASSES:
        (folder / name).mkdir(parents=True)
    for number, (image_HW, label) in enumerate(zip(images_NHW, labels_N, strict=True)):
        path = folder / FASHION_CLASSES[label] / f"{number:05d}.jpg"
        Image.fromarray(image_HW).save(path, quality=JPEG_QUALITY)


def _publish(draft: Path, folder: Path) -> None:
    try:
        draft.rename(folder)
    except OSError:
        # Another process was faster, and its folder is complete: they only appear by renaming.
        if not folder.is_dir():
            raise
