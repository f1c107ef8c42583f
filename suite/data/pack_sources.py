"""The images that are packed: of a split, in the order in which they are read fastest."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Protocol

import numpy as np

from suite.data.index import ImageIndex, Int64s
from suite.errors import UserError

# The number of an archive, and the offset and length in it, bytes.
Place = tuple[int, int, int]


class ImageSource(Protocol):
    """The images of a split. `names`: CLASS/FILE for each; `labels_N`: places in the list of classes."""

    @property
    def names(self) -> Sequence[bytes]: ...

    @property
    def labels_N(self) -> Int64s: ...

    def contents(self, first: int, end: int) -> Iterator[bytes]:
        """Yield the bytes of the images from `first` to before `end`. Raises UserError. Threads call it."""

    def fingerprint(self) -> str:
        """Return what changes with the list of images, and with archives that hold them. Opens no image."""

    def state(self, first: int, end: int) -> str:
        """Return what changes with images that are files, as far as it can be known without reading them.

        Raises UserError. Threads call it.
        """


@dataclass(frozen=True)
class LooseFiles:
    """Images that are files. `files`: their paths relative to `folder`."""

    folder: Path
    files: Sequence[bytes]
    names: Sequence[bytes]
    labels_N: Int64s

    @classmethod
    def of_index(cls, index: ImageIndex) -> "LooseFiles":
        """Return the image files of a folder, whose names begin with that of the split."""
        files = index.names_N.tolist()
        return cls(index.folder, files, [name.partition(b"/")[2] for name in files], index.labels_N)

    def contents(self, first: int, end: int) -> Iterator[bytes]:
        for path in self._paths(first, end):
            try:
                with open(path, "rb", buffering=0) as file:  # noqa: PTH123
                    content = file.readall()
            except OSError as error:
                raise _unreadable(path, error) from None
            yield content

    def fingerprint(self) -> str:
        return digest_of(self.files, [], self.labels_N)

    def state(self, first: int, end: int) -> str:
        """Return a digest of the files' sizes and times."""
        digest = hashlib.sha256()
        for path in self._paths(first, end):
            try:
                found = os.stat(path)  # noqa: PTH116
            except OSError as error:
                raise _unreadable(path, error) from None
            digest.update(f"{found.st_size} {found.st_mtime_ns} ".encode())
        return digest.hexdigest()

    def _paths(self, first: int, end: int) -> Iterator[bytes]:
        folder = os.fsencode(self.folder)
        for image in range(first, end):
            yield os.path.join(folder, self.files[image])  # noqa: PTH118


def _unreadable(path: bytes, error: OSError) -> UserError:
    return UserError(f"{os.fsdecode(path)}: cannot be read: {error.strerror}")


class OfArchives:
    """Images within archives, whose sizes and times are in the fingerprint."""

    def state(self, first: int, end: int) -> str:
        """Return nothing more."""
        return ""


@dataclass(frozen=True)
class Spans(OfArchives):
    """Images that are parts of archives. `archive_N`: its number; `offset_N` and `length_N`: bytes in it."""

    archives: Sequence[Path]
    archive_N: Int64s
    offset_N: Int64s
    length_N: Int64s
    names: Sequence[bytes]
    labels_N: Int64s

    @classmethod
    def at(
        cls, archives: Sequence[Path], places: Sequence[Place], names: Sequence[bytes], labels_N: Int64s
    ) -> "Spans":
        """Return the images at these places."""
        archive_N, offset_N, length_N = np.array(places, np.int64).reshape(-1, 3).T
        return cls(archives, archive_N, offset_N, length_N, names, labels_N)

    def contents(self, first: int, end: int) -> Iterator[bytes]:
        with ExitStack() as opened:
            current = -1
            for image in range(first, end):
                path = self.archives[self.archive_N[image]]
                offset, length = int(self.offset_N[image]), int(self.length_N[image])
                try:
                    if current != self.archive_N[image]:
                        opened.close()
                        file = opened.enter_context(FileIO(path))
                        current = self.archive_N[image]
                    content = os.pread(file.fileno(), length, offset)
                except OSError as error:
                    raise UserError(f"{path}: cannot be read: {error.strerror}") from None
                if len(content) < length:
                    raise UserError(f"{path}: ends before byte {offset + length}: it is cut short")
                yield content

    def fingerprint(self) -> str:
        return digest_of(self.names, self.archives, self.labels_N, self.archive_N, self.offset_N)


def digest_of(names: Sequence[bytes], archives: Sequence[Path], *arrays: Int64s) -> str:
    """Return a digest of names, arrays, and the sizes and times of files."""
    digest = hashlib.sha256(b"\0".join(names))
    for array in arrays:
        digest.update(array.tobytes())
    for state in (path.stat() for path in archives):
        digest.update(f"{state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()
