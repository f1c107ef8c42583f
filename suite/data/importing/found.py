"""What the importers return, and how they tell splits and classes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from suite.data.index import Int64s
from suite.data.pack_sources import ImageSource
from suite.errors import UserError

_SPLITS = {"train": "train(?:ing)?", "val": "val(?:id(?:ation)?)?", "": "test"}
_SYNSET = re.compile(rb"^(n\d{8})_\d+\.|_(n\d{8})\.\w+$")
_NUMBERED = re.compile(r"-(\d+)-of-(\d+)\b")


@dataclass(frozen=True)
class Found:
    """Images to be packed, and their classes in the order of the labels."""

    sources: Mapping[str, ImageSource]
    classes: tuple[str, ...]

    @property
    def num_images(self) -> int:
        return sum(len(source.names) for source in self.sources.values())


def by_split(folder: Path, files: Iterable[Path]) -> dict[str, list[Path]]:
    """Return the files of train and val, as their names or folders say; those of a test split are left out.

    Raises UserError for a file whose split is not clear, and for a split without files.
    """
    found: dict[str, list[Path]] = {split: [] for split in _SPLITS}
    for path in sorted(files):
        words = str(path.relative_to(folder)).lower()
        splits = [split for split, word in _SPLITS.items() if re.search(rf"(?<![a-z]){word}(?![a-z])", words)]
        if len(splits) != 1:
            raise UserError(f"{path}: its name should say either train or validation")
        found[splits[0]].append(path)
    del found[""]
    if missing := [split for split, paths in found.items() if not paths]:
        raise UserError(f"{folder}: has no files of {missing[0]}")
    for paths in found.values():
        _check_numbers(paths)
    return found


def _check_numbers(paths: Sequence[Path]) -> None:
    """Raise UserError if files say how many there are, as in train-00000-of-00294, and one is missing."""
    numbers: dict[tuple[str, int], set[int]] = {}
    for path in paths:
        if match := _NUMBERED.search(path.name):
            series = f"{path.parent}/{path.name[: match.start()]}", int(match[2])
            numbers.setdefault(series, set()).add(int(match[1]))
    for (name, count), present in numbers.items():
        if missing := sorted(set(range(count)) - present):
            raise UserError(f"{name}: the file {missing[0]} of {count} is missing, counted from 0")


def labels_of(classes_of_images: Mapping[str, Sequence[str]]) -> tuple[dict[str, Int64s], tuple[str, ...]]:
    """Return labels by split, and the classes, of images whose classes are known by name.

    Raises UserError if the splits have different classes.
    """
    sets = {split: set(names) for split, names in classes_of_images.items()}
    classes = tuple(sorted(set().union(*sets.values())))
    for split, mine in sets.items():
        if others := set(classes) - mine:
            raise UserError(f"{split}: has no image of the class {min(others)}, which the other split has")
    place = {name: label for label, name in enumerate(classes)}
    labels = {
        split: np.array([place[one] for one in names], np.int64) for split, names in classes_of_images.items()
    }
    return labels, classes


def class_list(
    path: Path | None,
    names: Mapping[str, Sequence[bytes]],
    labels: Mapping[str, Int64s],
    known: Sequence[str] = (),
) -> tuple[str, ...]:
    """Return the classes of images whose labels are numbers from 0.

    They are the lines of `path`, of which a synset at the beginning counts alone; otherwise the synsets that
    the images' names hold, `known` names, or else the numbers. Raises UserError for a label without a class.
    """
    count = 1 + max(int(labels_N.max()) for labels_N in labels.values())
    if path is not None:
        try:
            lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        if count > len(lines):
            raise UserError(f"{path}: has {len(lines)} classes, but an image has the label {count - 1}")
        return tuple(re.sub(r"^(n\d{8})\s.*", r"\1", line) for line in lines)
    if known and count > len(known):
        raise UserError(f"an image has the label {count - 1}, but the file names {len(known)} classes")
    return _synsets(names, labels, count) or tuple(known) or tuple(map(str, range(count)))


def _synsets(
    names: Mapping[str, Sequence[bytes]], labels: Mapping[str, Int64s], count: int
) -> tuple[str, ...]:
    """Return the synset of each label, if each label has one. Raises UserError for a name with another's."""
    found: dict[int, str] = {}
    for split, labels_N in labels.items():
        for name, label in zip(names[split], labels_N.tolist(), strict=True):
            if match := _SYNSET.search(name):
                synset = (match[1] or match[2]).decode()
                if (known := found.setdefault(label, synset)) != synset:
                    image = f"{split}: {name.decode(errors='replace')}"
                    raise UserError(f"{image} has the label {label}, as have images of {known}")
    return tuple(found[label] for label in sorted(found)) if len(set(found.values())) == count else ()


def original_name(name: str) -> bytes:
    """Return an image's name as in the official tars: Hugging Face's has its synset behind it."""
    return re.sub(r"_n\d{8}(?=\.\w+$)", "", name.rpartition("/")[2]).encode()
