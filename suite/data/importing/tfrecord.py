"""TFRecords: files of length-prefixed tf.train.Example messages, each an encoded image and its label.

A record is its length (8 bytes, little-endian), the length's checksum (4), the message, and its checksum (4).
The lengths are compared with their checksums, the messages are not: that would take a compiled CRC32C.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from suite.data.importing.found import Found, base_name, by_split, labels_of, numbered_classes, original_name
from suite.data.pack_sources import Place, Spans
from suite.errors import UserError

if TYPE_CHECKING:
    from suite.data.importing import Labels

# The names of features, as TensorFlow's models and TensorFlow Datasets write them.
IMAGE, LABEL = ("image/encoded", "image"), ("image/class/label", "label")
SYNSET, FILE = ("image/class/synset",), ("image/filename", "file_name")
Buffer = bytes | mmap.mmap
Span = tuple[int, int]


def is_in(folder: Path) -> bool:
    """Return whether a folder holds TFRecords, itself or in one for each split."""
    return any(_files(folder))


def _files(folder: Path) -> Iterator[Path]:
    for pattern in ("*tfrecord*", "*-of-*"):
        for path in [*folder.glob(pattern), *folder.glob(f"*/{pattern}")]:
            if path.is_file() and ("tfrecord" in path.name or not path.suffix):
                yield path


@dataclass
class _Images:
    """The images of a split's files."""

    files: list[Path]
    places: list[Place] = field(default_factory=list)
    raw_names: list[bytes] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    synsets: list[str] = field(default_factory=list)


def find(folder: Path, labels: "Labels") -> Found:
    """Return the images of all files. Raises UserError for a file that is damaged or holds other records."""
    found = {split: _list(files) for split, files in by_split(folder, set(_files(folder))).items()}
    if all(len(one.synsets) == len(one.raw_names) for one in found.values()):
        labels_by_split, classes = labels_of({split: one.synsets for split, one in found.items()})
    else:
        # TensorFlow's models count labels from 1, for 0 is their background.
        first = min(min(one.labels) for one in found.values())
        numbers = {split: np.array(one.labels, np.int64) - first for split, one in found.items()}
        raw_names = {split: one.raw_names for split, one in found.items()}
        labels_by_split, classes = numbered_classes(labels.classes, raw_names, numbers)
    sources = {}
    for split, one in found.items():
        labels_N = labels_by_split[split]
        pairs = zip(labels_N.tolist(), one.raw_names, strict=True)
        names_here = [f"{classes[label]}/".encode() + original_name(name) for label, name in pairs]
        sources[split] = Spans.at(one.files, one.places, names_here, labels_N)
    return Found(sources, classes)


def _list(files: list[Path]) -> _Images:
    found = _Images(files)
    for number, path in enumerate(files):
        for record, (content, begin, end) in enumerate(_records(path)):
            features = dict(_features(content, begin, end, path))
            image, label = (_first(features, names) for names in (IMAGE, LABEL))
            if image is None or label is None:
                has = ", ".join(sorted(features)) or "none"
                raise UserError(
                    f"{path}: record {record} lacks {IMAGE[0]} or {LABEL[0]}; its features are {has}"
                )
            found.places.append((number, image[0], image[1] - image[0]))
            found.labels.append(_integer(content, *label))
            if (synset := _first(features, SYNSET)) is not None:
                found.synsets.append(content[slice(*synset)].decode())
            name = _first(features, FILE)
            named = f"{path.name}-{record:06d}.jpg" if name is None else content[slice(*name)].decode()
            found.raw_names.append(base_name(named))
    return found


def _first(features: dict[str, Span], names: tuple[str, ...]) -> Span | None:
    return next((features[name] for name in names if name in features), None)


# ------------------------------------------------------------ the format


def _records(path: Path) -> Iterator[tuple[mmap.mmap, int, int]]:
    """Yield the file's content, and where each record's message begins and ends in it."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            begin = 0
            while begin < len(content):
                head = content[begin : begin + 12]
                length = int.from_bytes(head[:8], "little")
                if len(head) == 12 and masked_crc32c(head[:8]) != int.from_bytes(head[8:], "little"):
                    raise UserError(f"{path}: is damaged at byte {begin}, or holds no TFRecords")
                end = begin + 12 + length
                if len(head) < 12 or end + 4 > len(content):
                    raise UserError(f"{path}: is cut short: its last record is incomplete")
                yield content, begin + 12, end
                begin = end + 4
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def masked_crc32c(data: bytes) -> int:
    """Return the checksum of TFRecords: CRC-32C, rotated by 15 bits, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc32c_of(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC32C = tuple(map(_crc32c_of, range(256)))


def _features(content: Buffer, begin: int, end: int, path: Path) -> Iterator[tuple[str, Span]]:
    """Yield each feature of an Example, and where its first value lies.

    Example{1: Features{1: map of name (1) to Feature (2)}}; a Feature holds a list of bytes (1), floats (2)
    or integers (3), whose values are field 1.
    """
    try:
        for _, features in _fields(content, begin, end, 1):
            for _, entry in _fields(content, *features, 1):
                (_, name), *_ = _fields(content, *entry, 1)
                for _, feature in _fields(content, *entry, 2):
                    for _, values in _fields(content, *feature):
                        for _, value in _fields(content, *values, 1):
                            yield content[slice(*name)].decode(), value
                            break
    except (IndexError, ValueError):
        raise UserError(f"{path}: the record at byte {begin} is no tf.train.Example") from None


def _fields(content: Buffer, begin: int, end: int, only: int | None = None) -> Iterator[tuple[int, Span]]:
    """Yield the number of each field of a message, or of `only` one, and where its value lies."""
    while begin < end:
        tag, begin = _varint(content, begin)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            stop = _varint(content, begin)[1]
        elif kind == 2:
            length, begin = _varint(content, begin)
            stop = begin + length
        elif kind in (1, 5):
            stop = begin + (8 if kind == 1 else 4)
        else:
            raise ValueError(f"wire type {kind}")
        if stop > end:
            raise ValueError("a field ends behind its message")
        if only in (None, number):
            yield number, (begin, stop)
        begin = stop


def _varint(content: Buffer, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


def _integer(content: Buffer, begin: int, end: int) -> int:
    """Return the first of packed or single integers."""
    value, _ = _varint(content, begin)
    return value
