"""Packs: the images of a data set in a few large files, with an index and the list of classes.

A pack is a folder that holds `pack.json` (`MANIFEST`), an index for each split, `SPLIT.npy`, an array of
`row_type`, and the data files `SPLIT-00000.data`, …, in which the images lie as they were, one after another.
"""

import functools
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from suite.data.index import ImageIndex
from suite.data.packed import PACK_AGAIN, DataFiles, OnProgress, Packed, check_images
from suite.errors import UserError
from suite.files import write_atomically

MANIFEST = "pack.json"
FORMAT, VERSION = "shiftbench pack", 1
SPLITS = ("train", "val")


@dataclass(frozen=True)
class DataFile:
    """A data file of a pack, and how long it is."""

    name: str
    num_bytes: int


@dataclass(frozen=True)
class PackedSplit:
    """A split of a pack. `index_sha256`: of its index's file, which has a checksum of each image."""

    num_images: int
    index: str
    index_bytes: int
    index_sha256: str
    files: tuple[DataFile, ...]


@dataclass(frozen=True)
class Pack:
    """What a pack consists of. `digest` of its manifest names its content."""

    folder: Path
    classes: tuple[str, ...]
    splits: dict[str, PackedSplit]
    digest: str

    def __str__(self) -> str:
        """Return its place and what it holds, in a line."""
        counts = ", ".join(f"{split.num_images} images of {name}" for name, split in self.splits.items())
        return f"{self.folder}: {counts}, {len(self.classes)} classes"

    @property
    def num_bytes(self) -> int:
        """The length of all its files."""
        manifest = (self.folder / MANIFEST).stat().st_size
        return manifest + sum(num_bytes for _, num_bytes in self.files())

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield the name of each file but the manifest, and its length in bytes."""
        for split in self.splits.values():
            yield split.index, split.index_bytes
            yield from ((file.name, file.num_bytes) for file in split.files)

    def check_files(self) -> None:
        """Raise UserError for a file that is missing or has another length. Reads none of them."""
        for name, num_bytes in self.files():
            path = self.folder / name
            try:
                found = path.stat().st_size
            except OSError as error:
                raise UserError(f"{path}: cannot be read: {error.strerror}; {PACK_AGAIN}") from None
            if found != num_bytes:
                raise UserError(f"{path}: has {found} bytes, not the {num_bytes} of {MANIFEST}: {PACK_AGAIN}")


def is_pack(folder: Path) -> bool:
    """Return whether a folder is a pack."""
    return (folder / MANIFEST).is_file()


def open_pack(folder: Path) -> Pack:
    """Read a pack's manifest. Raises UserError for one that is missing, broken or of a later version."""
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
        content = orjson.loads(text)
        if content["format"] != FORMAT:
            raise ValueError(content["format"])
        if content["version"] != VERSION:
            raise UserError(f"{path}: has version {content['version']}; this shiftbench reads {VERSION}")
        splits = {name: _split_of(one) for name, one in content["splits"].items()}
        return Pack(folder, tuple(content["classes"]), splits, hashlib.sha256(text).hexdigest())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: is not the {MANIFEST} of a pack: {PACK_AGAIN}") from None


def _split_of(content: dict[str, Any]) -> PackedSplit:
    files = tuple(DataFile(str(one["name"]), int(one["num_bytes"])) for one in content["files"])
    return PackedSplit(**{**content, "files": files})


def write_manifest(folder: Path, classes: tuple[str, ...], splits: dict[str, PackedSplit]) -> None:
    """Write the manifest, which makes a pack of a folder."""
    content = {"format": FORMAT, "version": VERSION, "classes": classes}
    content["splits"] = {name: asdict(split) for name, split in splits.items()}
    write_atomically(folder / MANIFEST, orjson.dumps(content, option=orjson.OPT_INDENT_2))


@functools.lru_cache(maxsize=4)
def pack_index(folder: Path, split: str) -> ImageIndex:
    """Return the images of a pack's split. Cached until the process ends.

    Raises UserError for a pack without this split, and for one whose files disagree.
    """
    pack = open_pack(folder)
    pack.check_files()
    if split not in pack.splits:
        raise UserError(f"{folder}: is a pack of {' and '.join(pack.splits)}, and has no {split}")
    rows_N, packed = _rows(pack, split), pack.splits[split]
    files = DataFiles([folder / file.name for file in packed.files])
    labels_N = rows_N["label"].astype(np.int64)
    # What is no image has no size, and no decoder decodes it; a crop of it must be defined all the same.
    shapes_N2 = np.maximum(np.stack([rows_N["height"], rows_N["width"]], axis=1), 1)
    return ImageIndex(folder, rows_N["name"], labels_N, pack.classes, shapes_N2, Packed(files, rows_N))


def _rows(pack: Pack, split: str) -> NDArray[np.void]:
    """Return an index's rows. Raises UserError if they are not those of the manifest and its data files."""
    packed = pack.splits[split]
    path = pack.folder / packed.index
    fault = f"{path}: its index and data disagree"
    try:
        rows_N = np.asarray(np.load(path, mmap_mode="r"))
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        sizes_F = np.array([file.num_bytes for file in packed.files])
        ends_N, labels_N = rows_N["offset"] + rows_N["length"], rows_N["label"]
        fits = len(rows_N) == packed.num_images and labels_N.min() >= 0 and rows_N["offset"].min() >= 0
        fits &= labels_N.max() < len(pack.classes) and (ends_N <= sizes_F[rows_N["file"]]).all()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, IndexError, KeyError, TypeError):
        raise UserError(f"{fault}: {PACK_AGAIN}") from None
    if digest != packed.index_sha256 or not fits:
        raise UserError(f"{fault}: {PACK_AGAIN}")
    return rows_N


def check_pack(folder: Path, on_progress: OnProgress = lambda images, num_bytes: None) -> Pack:
    """Read all of a pack. Raises UserError where its index and its data disagree."""
    pack = open_pack(folder)
    parts = []
    for split in pack.splits:
        packed = pack_index.__wrapped__(folder, split).packed
        assert packed is not None
        files_N = packed.rows_N["file"]
        parts += [packed.take(np.flatnonzero(files_N == number)) for number in range(len(packed.files.paths))]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="check") as threads:
        try:
            for one in [threads.submit(check_images, part, on_progress) for part in parts]:
                one.result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    return pack
