"""Lists the files in tars, with their places, so that they can be read without unpacking."""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from suite.errors import UserError

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


@dataclass(frozen=True)
class Member:
    """A file in a tar. `offset` and `length`: bytes in the outermost tar."""

    name: str
    offset: int
    length: int


def members(path: Path) -> Iterator[Member]:
    """Yield the files of a tar. Raises UserError for one that is compressed, cut short, or no tar."""
    try:
        with path.open("rb") as file:
            if (kind := _COMPRESSED.get(file.read(2))) is not None:
                raise UserError(f"{path}: is compressed ({kind}): unpack it to a plain tar first")
            file.seek(0)
            yield from _members(path, str(path), file, 0)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def inner_members(path: Path, outer: Member) -> Iterator[Member]:
    """Yield the files of a tar that is a file in `path`. Raises UserError as `members` does."""
    with path.open("rb") as file:
        inside = cast(IO[bytes], _Window(file, outer.offset, outer.length))
        yield from _members(path, f"{path}: {outer.name}", inside, outer.offset)


def _members(path: Path, title: str, file: IO[bytes], start: int) -> Iterator[Member]:
    with _damage_named(title), tarfile.open(fileobj=file, mode="r:") as tar:
        while (info := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # it would keep a gigabyte of a million
            if info.isdir():
                continue
            if not info.isreg() or info.issparse():
                raise UserError(f"{title}: {info.name} is no ordinary file")
            yield Member(info.name, start + info.offset_data, info.size)
        # tarfile takes the end of the file, and damage, for the end of the tar.
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("no end")


@contextmanager
def _damage_named(title: str) -> Iterator[None]:
    try:
        yield
    except tarfile.TarError:
        raise UserError(
            f"{title}: is cut short or damaged, or no tar: compare its length with the original's"
        ) from None


class _Window:
    """A part of a file, with what tarfile asks of a file."""

    def __init__(self, file: IO[bytes], offset: int, length: int) -> None:
        self._file, self._offset, self._length, self._place = file, offset, length, 0

    def tell(self) -> int:
        return self._place

    def seek(self, place: int) -> int:
        self._place = place
        return place

    def read(self, count: int) -> bytes:
        self._file.seek(self._offset + self._place)
        content = self._file.read(max(0, min(count, self._length - self._place)))
        self._place += len(content)
        return content
