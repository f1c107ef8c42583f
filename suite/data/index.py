"""The image files of a split and their classes. Numpy only."""

import functools
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from suite.data import index_cache
from suite.data.idx import idx_file, read_array
from suite.data.packed import Bytes, Packed
from suite.errors import Cancelled, UserError

Int64s = NDArray[np.int64]
Name = TypeVar("Name", str, bytes)
# Those of torchvision's ImageFolder.
SUFFIXES = (b".jpg", b".jpeg", b".png", b".ppm", b".bmp", b".pgm", b".tif", b".tiff", b".webp")
LISTING_THREADS = 16
LAYOUT = "expected train/CLASS/*.jpg and val/CLASS/*.jpg"

NEVER = threading.Event()

log = logging.getLogger("shiftbench")


class ImageFiles(Protocol):
    """The image files of a split, in an order."""

    @property
    def folder(self) -> Path: ...

    def __len__(self) -> int: ...

    def path(self, image: int) -> str: ...

    def path_bytes(self, image: int) -> bytes: ...

    def read(self, image: int, *, checked: bool = False) -> Bytes:
        """Return a file's content. `checked`: compare it with its checksum, if it has one. Raises OSError."""


@dataclass(frozen=True)
class ImageIndex:
    """The images of one split, ordered by class and then by file name.

    Names are bytes in one array, relative to `folder`: 1.28 million of them take 50 MB, and worker
    processes share them. `shapes_N2`: height and width in pixels where they are known, so that no loader has
    to read them from the files. `packed`: where the images lie in the pack that `folder` is; None: each is a
    file.
    """

    folder: Path
    names_N: NDArray[np.bytes_]
    labels_N: Int64s
    classes: tuple[str, ...]
    shapes_N2: NDArray[np.int32] | None = None
    packed: Packed | None = None

    def __len__(self) -> int:
        return len(self.names_N)

    def path(self, image: int) -> str:
        return os.fsdecode(self.path_bytes(image))

    def path_bytes(self, image: int) -> bytes:
        return os.path.join(os.fsencode(self.folder), bytes(self.names_N[image]))  # noqa: PTH118

    def read(self, image: int, *, checked: bool = False) -> Bytes:
        if self.packed is None:
            return np.fromfile(self.path_bytes(image), np.uint8)
        return self.packed.read(image, checked=checked)

    def take(self, images_K: Int64s) -> "ImageIndex":
        """Return the index of these images only, in this order."""
        shapes_K2 = None if self.shapes_N2 is None else self.shapes_N2[images_K]
        packed = None if self.packed is None else self.packed.take(images_K)
        names_K, labels_K = self.names_N[images_K], self.labels_N[images_K]
        return ImageIndex(self.folder, names_K, labels_K, self.classes, shapes_K2, packed)


@functools.lru_cache(maxsize=4)
def scan(folder: Path, split: str, cancel: threading.Event = NEVER) -> ImageIndex:
    """List the images of `folder/split/CLASS/` and of the folders in it, as torchvision's ImageFolder does.

    Warns of files with other suffixes, which are ignored; hidden files and folders are so silently. Cached
    until the process ends, and on disk until a folder below changes. Raises UserError for a missing or empty
    folder, and for a class folder without images; Cancelled when `cancel` is set meanwhile.
    """
    root = folder / split
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {LAYOUT} in it")
    if not root.is_dir():
        raise UserError(f"{folder}: has no folder {split}/; {LAYOUT}")
    if (cached := index_cache.load(folder, split)) is None:
        cached = _list_split(folder, split, cancel)
        index_cache.save(folder, split, cached)
    if cached.warning:
        log.warning("%s", cached.warning)
    labels_N = np.repeat(np.arange(len(cached.classes), dtype=np.int64), cached.counts_C)
    return ImageIndex(folder, cached.names_N, labels_N, cached.classes)


def _list_split(folder: Path, split: str, cancel: threading.Event) -> index_cache.Listing:
    root, folders = folder / split, index_cache.Folders()
    folders.add(os.fsencode(root))
    classes = class_names(root)
    if not classes:
        raise UserError(f"{root}: has no class folders; {LAYOUT}")
    names, counts, ignored = list[bytes](), list[int](), list[bytes]()
    with ThreadPoolExecutor(LISTING_THREADS) as threads:  # which wait, on the file system of a network
        listed = list(threads.map(lambda name: _images_in(root / name, folders, cancel), classes))
    for name, (found, others) in zip(classes, listed, strict=True):
        if not found:
            raise UserError(f"{root / name}: a class folder without images ({_listed(SUFFIXES)})")
        ignored += [os.fsencode(f"{name}/") + other for other in others]
        names += [os.fsencode(f"{split}/{name}/") + image for image in found]
        counts.append(len(found))
    warning = _about_ignored(root, ignored) if ignored else ""
    counts_C = np.array(counts, np.int64)
    return index_cache.Listing(np.array(names, dtype=np.bytes_), counts_C, tuple(classes), folders, warning)


@functools.lru_cache(maxsize=4)
def scan_idx(folder: Path, split: str) -> ImageIndex:
    """List the images of a split's IDX files, in the order of `scan`: by class, then as in the file.

    Here `folder` of the index is the file of the images, and an image's name is its number in it. Reads the
    labels alone. Cached until the process ends. Raises UserError for files that are missing or
    broken, and for a class without images.
    """
    path = idx_file(folder, split, "labels")
    labels_N = read_array(path)
    if labels_N.ndim != 1 or not labels_N.size:
        raise UserError(f"{path}: expected one label for each image")
    counts = np.bincount(labels_N)
    if not counts.all():
        raise UserError(f"{path}: no image has the label {counts.argmin()}")
    order_N = np.argsort(labels_N, kind="stable")
    images, classes = idx_file(folder, split, "images"), tuple(map(str, range(len(counts))))
    return ImageIndex(images, order_N.astype(np.bytes_), labels_N[order_N].astype(np.int64), classes)


def class_names(root: Path) -> list[str]:
    """Return the sub-folders of a split in the order of their labels, without hidden ones."""
    return _list(root, lambda entry: entry.name if entry.is_dir() and entry.name[0] != "." else None)


def _images_in(
    folder: Path, folders: index_cache.Folders, cancel: threading.Event
) -> tuple[list[bytes], list[bytes]]:
    """Return the names, relative to a class folder, of its images and of the other files."""
    images, others = list[bytes](), list[bytes]()
    walked = _walk(os.fsencode(folder), b"", frozenset(), folders, cancel)
    below = sorted(walked, key=lambda found: found[0].rstrip(b"/"))
    for inner, names in below:
        for name in sorted(names):
            (images if name.lower().endswith(SUFFIXES) else others).append(inner + name)
    return images, others


def _walk(
    folder: bytes,
    inner: bytes,
    above: frozenset[bytes],
    listed: index_cache.Folders,
    cancel: threading.Event,
) -> Iterator[tuple[bytes, list[bytes]]]:
    """Yield each folder below, relative to the first one, with the names of its files; follow links once."""
    if cancel.is_set():
        raise Cancelled
    try:
        listed.add(folder)
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir()) for entry in entries if entry.name[:1] != b"."]
    except OSError as error:
        raise UserError(f"{os.fsdecode(folder)}: cannot be read: {error.strerror}") from None
    yield inner, [name for name, is_folder in found if not is_folder]
    if folders := [name for name, is_folder in found if is_folder]:
        above |= {os.path.realpath(folder)}
        for name in folders:
            path = os.path.join(folder, name)  # noqa: PTH118
            if os.path.realpath(path) not in above:  # a link to a folder above it
                yield from _walk(path, inner + name + b"/", above, listed, cancel)


def _about_ignored(root: Path, ignored: Sequence[bytes]) -> str:
    kinds = Counter(os.path.splitext(name)[1].lower() or b"without a suffix" for name in ignored)  # noqa: PTH122
    counts = ", ".join(f"{count} {os.fsdecode(kind)}" for kind, count in kinds.most_common(5))
    first = os.fsdecode(ignored[0])
    return f"{root}: {len(ignored)} files are no images and are ignored ({counts}), the first being {first}"


def _listed(suffixes: Sequence[bytes]) -> str:
    return ", ".join(map(os.fsdecode, suffixes))


def _list(folder: Path, pick: Callable[["os.DirEntry[str]"], Name | None]) -> list[Name]:
    try:
        with os.scandir(folder) as entries:
            return sorted(name for entry in entries if (name := pick(entry)) is not None)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None


def spread(index: ImageIndex, num_images: int) -> ImageIndex:
    """Return this many images, evenly spaced, so that every class keeps its share."""
    _check_enough(index, num_images, "val_images")
    return index.take(evenly_spaced(num_images, len(index)))


def evenly_spaced(count: int, total: int) -> Int64s:
    """Return `count` places, at most `total`, evenly spaced among as many as `total`: (count,)."""
    return (2 * np.arange(count, dtype=np.int64) + 1) * total // (2 * count)


def balanced_subset(index: ImageIndex, num_images: int, keys_N: NDArray[np.uint64]) -> ImageIndex:
    """Return this many images, balanced over the classes, with the smallest keys of each class."""
    _check_enough(index, num_images, "train_images")
    by_class_N = np.lexsort((keys_N, index.labels_N))
    first_of_class_C = np.searchsorted(index.labels_N, np.arange(len(index.classes)))
    rank_in_class_N = np.empty(len(index), dtype=np.int64)
    rank_in_class_N[by_class_N] = np.arange(len(index)) - first_of_class_C[index.labels_N[by_class_N]]
    return index.take(np.sort(np.lexsort((keys_N, rank_in_class_N))[:num_images]))


def _check_enough(index: ImageIndex, num_images: int, field: str) -> None:
    if num_images > len(index):
        raise UserError(f"data.{field} is {num_images}, but {index.folder} has only {len(index)} images")


def check_classes(index: ImageIndex, other_split: str) -> None:
    """Raise UserError if the other split exists and has other classes, so that labels would not match."""
    other = index.folder / other_split
    different = set(index.classes) ^ set(class_names(other)) if other.is_dir() else set()
    if different:
        one = f"{min(different)} is in one only"
        raise UserError(f"{index.folder}: train/ and val/ have different class folders: {one}")
