"""Imports ImageNet as people hold it, and writes it as a pack. Nothing is downloaded.

To add a form, add an entry of `FORMS` and its module.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from suite.data.importing.found import Found
from suite.errors import UserError
from suite.specs.choice import resolve

__all__ = ["FORMS", "Found", "Labels", "find_images"]


@dataclass(frozen=True)
class Labels:
    """Files of labels. `val_labels`: of flat validation images; `classes`: in the order of the labels."""

    val_labels: Path | None = None
    classes: Path | None = None


@dataclass(frozen=True)
class Form:
    """A form in which people hold ImageNet.

    `module`: has `is_in(folder)`, whether a folder holds this form, and `find(folder, labels)`, which returns
    what it holds or raises UserError.
    """

    meaning: str
    module: str


_HERE = "suite.data.importing"
FORMS = {
    "tars": Form(
        "the two official tars (a tar of class tars; validation images with the devkit's labels)",
        f"{_HERE}.official_tars",
    ),
    "folder": Form(
        "train/CLASS/*.JPEG with val/CLASS/*.JPEG, or with flat val/*.JPEG and their labels, as on Kaggle",
        f"{_HERE}.image_folder",
    ),
    "webdataset": Form("WebDataset's shards, *.tar with KEY.jpg and KEY.cls", f"{_HERE}.webdataset"),
    "parquet": Form("Hugging Face's shards, *.parquet with an image and a label", f"{_HERE}.parquet"),
    "tfrecord": Form("TFRecords of tf.train.Example", f"{_HERE}.tfrecord"),
}


def find_images(folder: Path, labels: Labels, num_classes: int | None) -> Found:
    """Return the images that a folder holds in one of `FORMS`.

    `num_classes`: how many there should be; None: as many as there are. Raises UserError for a folder that
    holds none, for one that is damaged, and for another number of classes.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: is not a folder")
    for form in FORMS.values():
        if resolve(f"{form.module}:is_in")(folder):
            found: Found = resolve(f"{form.module}:find")(folder, labels)
            _check(folder, found, num_classes)
            return found
    known = "; ".join(form.meaning for form in FORMS.values())
    raise UserError(f"{folder}: holds none of these: {known}")


def _check(folder: Path, found: Found, num_classes: int | None) -> None:
    if num_classes is not None and len(found.classes) != num_classes:
        first = _shown(found.classes)
        raise UserError(
            f"{folder}: has {len(found.classes)} classes ({first}), not {num_classes}; --num-classes says "
            "how many there should be"
        )


def _shown(classes: Sequence[str]) -> str:
    return ", ".join(classes) if len(classes) <= 3 else f"{classes[0]} to {classes[-1]}"
