"""Finds a data set's files, and prepares those of the known sources. No torch here.

There are three kinds: JPEG files in ImageNet's layout, images with boxes in COCO's format, and IDX files,
the format of MNIST.
"""

import threading
from collections.abc import Callable
from pathlib import Path

from suite.data.idx import DEBIAN_FOLDER, PREFIXES, fashion_mnist_folder, read_split
from suite.data.index import NEVER, ImageIndex, check_classes, scan, scan_idx
from suite.data.packs import SPLITS, is_pack, pack_index
from suite.errors import UserError
from suite.experiment import DataSpec
from suite.files import draft_of, publish_folder
from suite.paths import data_home
from suite.specs.choice import listed, resolve
from suite.specs.loader_table import LOADERS
from suite.specs.source_table import LAYOUTS, SOURCES
from suite.user import expand_path

ELSEWHERE = "the variable SHIFTBENCH_DATA_DIR names another folder for data"
SUBSET_FOLDER = Path(__file__).parent / "fashion_mnist_7k"
# In the order of the labels; the number keeps that order when folders are sorted.
FASHION_CLASSES = (
    *("0-t-shirt", "1-trouser", "2-pullover", "3-dress", "4-coat"),
    *("5-sandal", "6-shirt", "7-sneaker", "8-bag", "9-ankle-boot"),
)
JPEG_QUALITY = 95


def default_root() -> Path:
    """Return the folder of prepared data sets, as `data_home`. Raises UserError where there is none."""
    if (home := data_home()) is None:
        raise UserError(
            "data sets have no folder here (no HOME, no entry in passwd): set SHIFTBENCH_DATA_DIR"
        )
    return home


def folder_index(data: DataSpec, split: str, cancel: threading.Event = NEVER) -> ImageIndex:
    """List a split's images, files or a pack's.

    Raises UserError if it is missing or has other classes, and Cancelled when `cancel` is set meanwhile.
    """
    folder = dataset_folder(data)
    if (known := _received.get((folder, split, data.num_classes))) is not None:
        return known
    packed = is_pack(folder)
    index = pack_index(folder, split) if packed else scan(folder, split, cancel)
    if (count := len(index.classes)) != data.num_classes:
        has = f"{folder}: has {count} classes" if packed else f"{folder / split}: has {count} class folders"
        raise UserError(f"{has}, but data.num_classes is {data.num_classes}")
    if packed:  # whose splits have one list of classes
        return index
    check_classes(index, other_split="val" if split == "train" else "train")
    return index


_received = dict[tuple[Path, str, int | None], ImageIndex]()
"""What the first rank has listed for all, by folder, split and the number of classes that it has."""


def indexes_to_share(data: DataSpec, cancel: threading.Event) -> list[ImageIndex] | None:
    """Return the indexes of both splits for all ranks, or None for data that each opens by itself.

    Raises UserError and Cancelled as `folder_index` does.
    """
    source = SOURCES.get(data.name)
    if (
        not LOADERS[data.loader].lists_files
        or (source is not None and source.generator)
        or is_pack(dataset_folder(data))
    ):
        return None
    return [folder_index(data, split, cancel) for split in SPLITS]


def receive_indexes(data: DataSpec, indexes: list[ImageIndex]) -> None:
    """Use the indexes of `indexes_to_share` instead of listing the files."""
    for split, index in zip(SPLITS, indexes, strict=True):
        _received[dataset_folder(data), split, data.num_classes] = index


def check_stage(data: DataSpec) -> None:
    """Raise UserError if the data are to be staged, and are no pack."""
    if data.stage is not None and not is_pack(folder := dataset_folder(data)):
        raise UserError(
            f"data.stage: packs are copied there, and {folder} is none: make one by `shiftbench data pack`, "
            "or leave data.stage out"
        )


def idx_index(data: DataSpec, split: str) -> ImageIndex:
    """List the images of a split's IDX files. Raises UserError if it is missing or has other classes."""
    index = scan_idx(idx_folder(data), split)
    if (count := len(index.classes)) != data.num_classes:
        where = f"{index.folder}: has the labels 0 to {count - 1}"
        raise UserError(f"{where}, but data.num_classes is {data.num_classes}")
    return index


def dataset_folder(data: DataSpec) -> Path:
    """Return the folder of a data set's files; a known source is prepared if it is missing."""
    if data.path is None:
        return prepare(data.name)
    folder = expand_path(data.path, "data.path")
    if not folder.is_dir():
        layouts = [SOURCES[data.name].layout] if data.name in SOURCES else LAYOUTS
        expected = listed((LAYOUTS[one] for one in layouts), "or")
        raise UserError(f"data.path: {folder} is not a folder; expected one that holds {expected}")
    return folder


def idx_folder(data: DataSpec) -> Path:
    """Return the folder of a data set's IDX files: `path`, or that of a known source.

    Raises UserError for a source that has none, or whose files are missing and cannot be downloaded.
    """
    if data.path is not None:
        return expand_path(data.path, "data.path")
    source = SOURCES.get(data.name)
    if source is None or not source.idx:
        known = ", ".join(name for name, one in SOURCES.items() if one.idx)
        lacks = f"data.loader: {data.loader} reads IDX files, which {data.name} does not have"
        raise UserError(f"{lacks}: it is for {known}, or your own files in data.path")
    folder: Path = resolve(source.idx)()
    return folder


def prepare(name: str, root: Path | None = None) -> Path:
    """Write a known source below `root`, unless it is there, and return its folder.

    The folder appears complete or not at all, even when several processes prepare it at once.
    Raises UserError for a source that cannot be prepared, and for a root that cannot be written.
    """
    source = SOURCES.get(name)
    if source is None:
        raise UserError(f"unknown data set {name!r}; known are {', '.join(SOURCES)}")
    if not source.files:
        raise UserError(f"{name} {source.not_prepared}")
    return published((default_root() if root is None else root) / name, resolve(source.files))


def fashion_mnist_jpegs(draft: Path) -> Path:
    """Write Fashion-MNIST as JPEG files, downloaded unless Debian's package is installed."""
    return _write_jpegs(fashion_mnist_folder(draft), draft / "images")


def fashion_mnist_idx() -> Path:
    """Return the folder of Fashion-MNIST's files, downloaded unless Debian's package is installed."""
    if DEBIAN_FOLDER.is_dir():
        return DEBIAN_FOLDER
    return published(default_root() / "fashion-mnist-idx", fashion_mnist_folder)


def fashion_mnist_7k_jpegs(draft: Path) -> Path:
    """Write the subset of Fashion-MNIST in this repository as JPEG files."""
    return _write_jpegs(SUBSET_FOLDER, draft / "images")


def subset_folder() -> Path:
    """Return the folder of the subset of Fashion-MNIST in this repository."""
    return SUBSET_FOLDER


def mnist_idx() -> Path:
    """Return the folder of MNIST's files. Raises UserError if it is missing."""
    folder = default_root() / "mnist"
    if not folder.is_dir():
        raise UserError(
            f"mnist is not here: put its four IDX files into {folder} ({ELSEWHERE}), or set data.path"
        )
    return folder


def published(folder: Path, make: Callable[[Path], Path]) -> Path:
    """Return `folder`; if missing, it is what `make` writes in a draft folder and returns the place of."""
    if folder.is_dir():
        return folder
    root, name = folder.parent, folder.name
    try:
        root.mkdir(parents=True, exist_ok=True)
        with draft_of(folder) as draft:
            publish_folder(make(draft), folder)  # another process may be faster: its folder is as complete
    except OSError as error:
        where = error.filename or root
        raise UserError(f"{where}: {name} cannot be written there: {error.strerror}; {ELSEWHERE}") from None
    return folder


def _write_jpegs(source: Path, folder: Path) -> Path:
    from PIL import Image

    for split in PREFIXES:
        for name in FASHION_CLASSES:
            (folder / split / name).mkdir(parents=True)
        for number, (image_HW, label) in enumerate(zip(*read_split(source, split), strict=True)):
            path = folder / split / FASHION_CLASSES[label] / f"{number:05d}.jpg"
            Image.fromarray(image_HW).save(path, quality=JPEG_QUALITY)
    return folder
