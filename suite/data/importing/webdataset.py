"""WebDataset's shards: tars in which KEY.jpg lies beside KEY.cls, or KEY.json with a label."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from suite.data.importing.found import Found, base_name, by_split, labels_of, numbered_classes, original_name
from suite.data.importing.tars import Member, members
from suite.data.index import SUFFIXES, Int64s
from suite.data.pack_sources import Place, Spans
from suite.errors import UserError
from suite.files import parse_json

if TYPE_CHECKING:
    from suite.data.importing import Labels

LABELS = ("cls", "json")


def is_in(folder: Path) -> bool:
    """Return whether a folder, or one for each split in it, holds tars."""
    return any(_shards(folder))


def _shards(folder: Path) -> Iterator[Path]:
    yield from folder.glob("*.tar")
    yield from folder.glob("*/*.tar")


def find(folder: Path, labels: "Labels") -> Found:
    """Return the images of all shards. Raises UserError for one that is damaged or lacks a label."""
    found = {split: _Images(shards) for split, shards in by_split(folder, _shards(folder)).items()}
    named = {split: images.labels for split, images in found.items()}
    if all(label.isdecimal() for one in named.values() for label in one):
        numbers = {split: np.array(one, np.int64) for split, one in named.items()}
        raw_names = {split: images.raw_names for split, images in found.items()}
        labels_by_split, classes = numbered_classes(labels.classes, raw_names, numbers)
    else:
        labels_by_split, classes = labels_of(named)
    sources = {
        split: images.source([classes[label] for label in labels_by_split[split]], labels_by_split[split])
        for split, images in found.items()
    }
    return Found(sources, classes)


class _Images:
    """The images of a split's shards, and their labels as they are written."""

    def __init__(self, shards: list[Path]) -> None:
        self.shards, self.raw_names, self.labels = shards, list[bytes](), list[str]()
        self._places = list[Place]()
        for number, shard in enumerate(shards):
            with shard.open("rb") as file:
                for key, parts in _samples(shard):
                    image = [one for suffix, one in parts.items() if _is_image(suffix)]
                    if len(image) != 1:
                        raise UserError(
                            f"{shard}: {key} has {len(image)} images; expected one, such as {key}.jpg"
                        )
                    self.raw_names.append(base_name(image[0].name))
                    self.labels.append(_label(shard, key, parts, file.fileno()))
                    self._places.append((number, image[0].offset, image[0].length))

    def source(self, classes: list[str], labels_N: Int64s) -> Spans:
        pairs = zip(classes, self.raw_names, strict=True)
        names = [f"{one}/".encode() + original_name(name) for one, name in pairs]
        return Spans.at(self.shards, self._places, names, labels_N)


def _samples(shard: Path) -> Iterator[tuple[str, dict[str, Member]]]:
    """Yield each key and its files by their suffix. They follow one another."""
    current, parts = "", dict[str, Member]()
    for one in members(shard):
        before, _, base = one.name.rpartition("/")
        stem, dot, suffix = base.partition(".")
        if not (stem and dot):
            raise UserError(f"{shard}: holds {one.name}, which is no part of a sample")
        key = f"{before}/{stem}"
        if key != current and parts:
            yield current.lstrip("/"), parts
            parts = {}
        current, parts[suffix.lower()] = key, one
    if parts:
        yield current.lstrip("/"), parts


def _is_image(suffix: str) -> bool:
    return f".{suffix}".encode().endswith(SUFFIXES)


def _label(shard: Path, key: str, parts: dict[str, Member], descriptor: int) -> str:
    for suffix in LABELS:
        if (one := parts.get(suffix)) is None:
            continue
        text = os.pread(descriptor, one.length, one.offset)
        content = parse_json(text) if suffix == "json" else text.decode("utf-8", "replace")
        if isinstance(content, dict):
            content = next((content[name] for name in ("label", "cls") if name in content), "")
        if label := str(content).strip():
            return label
    raise UserError(f"{shard}: {key} has no label: expected {key}.cls, or a label in {key}.json")
