"""What the importers return, and how they tell splits and classes."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from suite.data.index import Int64s
from suite.data.pack_sources import ImageSource
from suite.errors import UserError

_SPLITS = {"train": "train(?:ing)?", "val": "val(?:id(?:ation)?)?", "": "test"}
_SYNSET = re.compile(rb"^(n\d{8})_\d+\.|_(n\d{8})\.\w+$")
_IS_SYNSET = re.compile(r"n\d{8}")
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


def numbered_classes(
    path: Path | None,
    raw_names: Mapping[str, Sequence[bytes]],
    labels: Mapping[str, Int64s],
    known: Sequence[str] = (),
) -> tuple[dict[str, Int64s], tuple[str, ...]]:
    """Return labels by split, and the classes, of images whose labels are numbers from 0.

    The classes are the lines of `path`, of which a synset at the beginning counts alone; otherwise the
    synsets that `raw_names`, the images' names as they were found, hold, `known` names, or else the numbers.
    Synsets are sorted, as class folders are, and the labels follow; others stay in the order of their
    numbers. Raises UserError for a label without a class, for a class that is listed twice, and for a name
    that holds another synset than its label's.
    """
    count = 1 + max(int(labels_N.max()) for labels_N in labels.values())
    found = _synsets(raw_names, labels)
    if path is not None:
        classes = _listed_classes(path, count)
    elif len(set(found.values())) == count:
        classes = tuple(found[label] for label in range(count))
    elif known and count > len(known):
        raise UserError(f"an image has the label {count - 1}, but the file names {len(known)} classes")
    else:
        classes = tuple(known) or tuple(map(str, range(count)))
    if not all(_IS_SYNSET.fullmatch(name) for name in classes):
        return dict(labels), classes
    wrong = next((label for label, synset in sorted(found.items()) if classes[label] != synset), None)
    if wrong is not None:
        source = "the file's names of the classes" if path is None else path
        raise UserError(
            f"{source}: the label {wrong} is {classes[wrong]}, but its images' names say {found[wrong]}"
        )
    in_order = tuple(sorted(classes))
    label_of = {name: label for label, name in enumerate(in_order)}
    sorted_C = np.array([label_of[name] for name in classes], np.int64)
    return {split: sorted_C[labels_N] for split, labels_N in labels.items()}, in_order


def _listed_classes(path: Path, count: int) -> tuple[str, ...]:
    try:
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    classes = tuple(re.sub(r"^(n\d{8})\s.*", r"\1", line) for line in lines)
    if count > len(classes):
        raise UserError(f"{path}: has {len(classes)} classes, but an image has the label {count - 1}")
    if twice := next((name for name, times in Counter(classes).items() if times > 1), None):
        raise UserError(f"{path}: has the class {twice} twice; expected another one on each line")
    return classes


def _synsets(raw_names: Mapping[str, Sequence[bytes]], labels: Mapping[str, Int64s]) -> dict[int, str]:
    """Return each label's synset, where its images' names hold one. Raises UserError for two of one label."""
    found: dict[int, str] = {}
    for split, labels_N in labels.items():
        for name, label in zip(raw_names[split], labels_N.tolist(), strict=True):
            if match := _SYNSET.search(name):
                synset = (match[1] or match[2]).decode()
                if (known := found.setdefault(label, synset)) != synset:
                    image = f"{split}: {name.decode(errors='replace')}"
                    raise UserError(f"{image} has the label {label}, as have images of {known}")
    return found


def base_name(name: str) -> bytes:
    """Return a name without its folders."""
    return name.rpartition("/")[2].encode()


def original_name(raw_name: bytes) -> bytes:
    """Return an image's name as in the official tars: Hugging Face's has its synset behind it."""
    return re.sub(rb"_n\d{8}(?=\.\w+$)", b"", raw_name)
