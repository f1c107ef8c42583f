"""Where a data set's files are, and getting them onto disk. No torch here.

There are two kinds: JPEG files in ImageNet's layout, and the IDX files that MNIST comes in.
"""

import os
from collections.abc import Callable
from pathlib import Path

from suite.data.idx import DEBIAN_FOLDER, PREFIXES, Bytes, fashion_mnist_folder, read_split
from suite.errors import UserError
from suite.experiment import NUM_CLASSES, DataSpec
from suite.files import draft_of, publish_folder

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


def idx_folder(data: DataSpec) -> Path:
    """The folder of a data set's IDX files: `path`, or where a known source has them.

    MNIST must lie in the data folder already, Fashion-MNIST is downloaded into it unless Debian's package
    is installed. Raises UserError for a source that has none, or that is not to be had.
    """
    if data.path is not None:
        return Path(data.path).expanduser()
    if data.name == "fashion-mnist-7k":
        return SUBSET_FOLDER
    if data.name == "fashion-mnist":
        if DEBIAN_FOLDER.is_dir():
            return DEBIAN_FOLDER
        return _made(default_root() / "fashion-mnist-idx", fashion_mnist_folder)
    if data.name != "mnist":
        raise UserError(
            f"data.loader: memory reads IDX files, which {data.name} has not: it is for mnist, "
            "fashion-mnist, fashion-mnist-7k, or files of your own in data.path"
        )
    folder = default_root() / "mnist"
    if not folder.is_dir():
        raise UserError(
            f"mnist is not here: put its four IDX files into {folder}, or set data.path to their folder"
        )
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
    if name == "mnist":
        raise UserError("mnist needs no preparation: data.loader: memory reads its four IDX files")
    if name == "synthetic":
        raise UserError("synthetic needs no preparation: its tensors are made on the device")
    if name not in NUM_CLASSES:
        raise UserError(f"unknown data set {name!r}; known are {', '.join(NUM_CLASSES)}")

    def write(draft: Path) -> Path:
        source = SUBSET_FOLDER if name == "fashion-mnist-7k" else fashion_mnist_folder(draft)
        images = draft / name
        for split in PREFIXES:
            _write_jpegs(images / split, *read_split(source, split))
        return images

    return _made((default_root() if root is None else root) / name, write)


def _made(folder: Path, make: Callable[[Path], Path]) -> Path:
    """`folder`; unless it is there, `make` is given a draft to work in and says where in it the result is."""
    if folder.is_dir():
        return folder
    root, name = folder.parent, folder.name
    try:
        root.mkdir(parents=True, exist_ok=True)
        with draft_of(folder) as draft:
            publish_folder(make(draft), folder)  # another process may be faster: its folder is as complete
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
