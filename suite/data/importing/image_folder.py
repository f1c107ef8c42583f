"""A folder of class folders, whose validation images may lie flat beside a list of labels, as Kaggle's do."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from suite.data.importing.found import Found, labels_of
from suite.data.importing.val_labels import val_classes
from suite.data.index import SUFFIXES, scan
from suite.data.pack_sources import LooseFiles
from suite.data.pack_writer import sources_of
from suite.errors import UserError

if TYPE_CHECKING:
    from suite.data.importing import Labels

PLACES = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")


def is_in(folder: Path) -> bool:
    """Return whether a folder holds train/ with folders, itself or where Kaggle's has it."""
    return _place(folder) is not None


def _place(folder: Path) -> Path | None:
    places = (folder / place for place in PLACES)
    return next((one for one in places if (one / "train").is_dir() and _has_folder(one / "train")), None)


def _has_folder(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.is_dir() for entry in entries)


def find(folder: Path, labels: "Labels") -> Found:
    """Return the images of both splits. Raises UserError as `scan` and `val_classes` do."""
    place = _place(folder)
    assert place is not None
    flat = _flat_images(place / "val")
    if not flat:
        return Found(*sources_of(place))
    if _has_folder(place / "val"):
        raise UserError(f"{place / 'val'}: has images beside folders; expected either, with all of them")
    training = scan(place, "train")
    in_training = [training.classes[label] for label in training.labels_N]
    in_val = val_classes(folder, flat, labels.val_labels)
    labels_by_split, classes = labels_of({"train": in_training, "val": in_val})
    names = [f"{name}/{file}".encode() for name, file in zip(in_val, flat, strict=True)]
    files = [f"val/{file}".encode() for file in flat]
    val = LooseFiles(place, files, names, labels_by_split["val"])
    return Found({"train": LooseFiles.of_index(training), "val": val}, classes)


def _flat_images(folder: Path) -> list[str]:
    """Return the names of the images that lie in a folder itself."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder: the validation images are missing")
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.is_dir() and entry.name[0] != "."]
    return sorted(name for name in names if os.fsencode(name).lower().endswith(SUFFIXES))
