"""The official tars: ILSVRC2012_img_train.tar of class tars, and ILSVRC2012_img_val.tar of flat images."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from suite.data.importing.found import Found, labels_of
from suite.data.importing.tars import Member, inner_members, members
from suite.data.importing.val_labels import val_classes
from suite.data.index import SUFFIXES
from suite.data.pack_sources import Spans
from suite.errors import UserError

if TYPE_CHECKING:
    from suite.data.importing import Labels


def is_in(folder: Path) -> bool:
    """Return whether one of a folder's tars begins with a tar, as that of the training images does."""
    return bool(_nested(folder))


def _nested(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.tar")) if _begins_with_a_tar(path)]


def _begins_with_a_tar(path: Path) -> bool:
    return any(one.name.endswith(".tar") for one in islice(members(path), 1))


def find(folder: Path, labels: "Labels") -> Found:
    """Return the images of both tars. Raises UserError for missing, damaged or other tars."""
    training = _nested(folder)
    validation = [path for path in folder.glob("*val*.tar") if path not in training]
    for split, found in (("training", training), ("validation", validation)):
        if len(found) != 1:
            raise UserError(f"{folder}: has {len(found)} tars of {split} images; expected one")
    images = {"train": _training_images(training[0]), "val": _validation_images(validation[0])}
    files = [one.name.rpartition("/")[2] for _, one in images["val"]]
    classes_of_val = val_classes(folder, files, labels.val_labels)
    classes_of = {"train": [name for name, _ in images["train"]], "val": classes_of_val}
    labels_by_split, classes = labels_of(classes_of)
    sources = {}
    for split, path in (("train", training[0]), ("val", validation[0])):
        places = [(0, one.offset, one.length) for _, one in images[split]]
        names = [
            f"{name}/{one.name.rpartition('/')[2]}".encode()
            for name, (_, one) in zip(classes_of[split], images[split], strict=True)
        ]
        sources[split] = Spans.at([path], places, names, labels_by_split[split])
    return Found(sources, classes)


def _training_images(path: Path) -> list[tuple[str, Member]]:
    found = list[tuple[str, Member]]()
    for outer in members(path):
        if not outer.name.endswith(".tar"):
            raise UserError(f"{path}: holds {outer.name}, which is no tar of a class")
        name = Path(outer.name).stem
        images = [(name, _image(f"{path}: {outer.name}", one)) for one in inner_members(path, outer)]
        if not images:
            raise UserError(f"{path}: {outer.name} is empty")
        found += images
    return found


def _validation_images(path: Path) -> list[tuple[str, Member]]:
    return [("", _image(str(path), one)) for one in members(path)]


def _image(title: str, member: Member) -> Member:
    if not member.name.lower().endswith(tuple(suffix.decode() for suffix in SUFFIXES)):
        raise UserError(f"{title}: holds {member.name}, which is no image")
    return member
