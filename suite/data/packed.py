"""The images of a pack: bytes of a few large files, at places that an index names. Numpy only."""

import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from suite.errors import UserError

Bytes = NDArray[np.uint8]
OnProgress = Callable[[int, int], None]
"""Called with the images that have been read since the last call, and their bytes; by threads."""

PACK_AGAIN = "copy the pack again, or pack the images anew"


def row_type(name_bytes: int) -> np.dtype[np.void]:
    """Return the type of an index's rows, whose names have at most so many bytes.

    `name`: the file's, relative to the data set, such as train/n01440764/1.JPEG. `label`: the place in the
    list of classes. `file`: the number of the data file; `offset` and `length`: bytes in it. `height` and
    `width`: pixels, 0 for what is no image. `crc32`: of the image's bytes.
    """
    numbers = [("label", "<i4"), ("file", "<i4"), ("offset", "<i8"), ("length", "<i8")]
    return np.dtype(
        [("name", f"S{name_bytes}"), *numbers, ("height", "<i4"), ("width", "<i4"), ("crc32", "<u4")]
    )


class DataFiles:
    """The data files of a split, opened when they are first read. Forked processes share what is open."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._open = dict[int, FileIO]()

    def read(self, number: int, offset: int, length: int) -> Bytes:
        """Return `length` bytes of a file. Threads may read at once.

        Raises UserError for a file that is missing, unreadable or too short: unlike a bad image, this is a
        fault of the pack.
        """
        content = np.empty(length, np.uint8)
        left = content.data
        try:
            file = self._open.get(number)
            if file is None:  # a thread may be faster: one of the two files is then closed unused
                file = self._open.setdefault(number, FileIO(self.paths[number]))
            while left:
                got = os.preadv(file.fileno(), [left], offset + length - len(left))
                if not got:
                    path = self.paths[number]
                    raise UserError(f"{path}: ends before byte {offset + length}: {PACK_AGAIN}")
                left = left[got:]
        except OSError as error:
            raise UserError(f"{self.paths[number]}: cannot be read: {error.strerror}") from None
        return content


@dataclass(frozen=True)
class Packed:
    """Where images lie in a pack. `rows_N`: see `row_type`; ranks of a machine share the index's memory."""

    files: DataFiles
    rows_N: NDArray[np.void]

    def take(self, images_K: NDArray[np.int64]) -> "Packed":
        return Packed(self.files, self.rows_N[images_K])

    def read(self, image: int, *, checked: bool = False) -> Bytes:
        """Return an image's bytes. `checked`: compare them with the checksum. Raises UserError."""
        row = self.rows_N[image]
        content = self.files.read(int(row["file"]), int(row["offset"]), int(row["length"]))
        if checked and zlib.crc32(content.data) != row["crc32"]:
            path, name = self.files.paths[row["file"]], os.fsdecode(bytes(row["name"]))
            raise UserError(f"{path}: {name} has another checksum than in the index: {PACK_AGAIN}")
        return content


def check_images(packed: Packed, on_progress: OnProgress) -> None:
    """Read all images. Raises UserError for one whose bytes are not those that were packed."""
    for image in np.lexsort((packed.rows_N["offset"], packed.rows_N["file"])):
        on_progress(1, len(packed.read(image, checked=True)))
