"""Converts a folder of Pascal VOC to COCO's format: XML files and lists of images to one JSON a split."""

import os
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import orjson

from suite.errors import UserError
from suite.files import draft_of, publish_folder

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *(
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ),
)
LISTS = (("trainval", "test"), ("train", "val"))
"""Which lists of images become train and val; the first pair of which both exist."""


def import_voc(folder: Path, target: Path) -> dict[str, tuple[int, int, int]]:
    """Write `folder`, such as VOCdevkit/VOC2007, as a data set in COCO's format.

    Returns the number of images, of boxes, and of difficult ones among these, for each split. VOC counts
    pixels from 1 and includes the last; difficult objects become crowds, which are ignored in evaluation
    and left out in training. The images are linked, or copied where the file system has no links. The
    target appears complete or not at all. Raises UserError for a folder that is no VOC, an XML file that is
    missing or broken, and a target that exists or cannot be written.
    """
    if target.exists():
        raise UserError(f"{target}: exists; name a new folder")
    names = _names(folder)
    counts = {}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with draft_of(target) as draft:
            whole = draft / "coco"
            (whole / "annotations").mkdir(parents=True)
            for split, stems in names.items():
                counts[split] = _write_split(folder, whole, split, stems)
            publish_folder(whole, target)
    except OSError as error:
        raise UserError(f"{error.filename or target}: cannot be written: {error.strerror}") from None
    return counts


def _names(folder: Path) -> dict[str, list[str]]:
    lists = folder / "ImageSets/Main"
    for pair in LISTS:
        files = [lists / f"{name}.txt" for name in pair]
        if all(file.is_file() for file in files):
            found = [file.read_text("utf-8").split() for file in files]
            for file, stems in zip(files, found, strict=True):
                if not stems or len(set(stems)) < len(stems):
                    raise UserError(f"{file}: expected names of images, each once")
            return dict(zip(("train", "val"), found, strict=True))
    wanted = " or ".join(" and ".join(f"{name}.txt" for name in pair) for pair in LISTS)
    raise UserError(f"{folder}: not a folder of Pascal VOC: expected {wanted} in ImageSets/Main/")


def _write_split(folder: Path, whole: Path, split: str, stems: list[str]) -> tuple[int, int, int]:
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    (whole / split).mkdir()
    for number, stem in enumerate(stems, 1):
        path = folder / "Annotations" / f"{stem}.xml"
        image, boxes = _read_xml(path)
        source = folder / "JPEGImages" / f"{stem}.jpg"
        if not source.is_file():
            raise UserError(f"{source}: is missing, but {path.name} describes it")
        _link(source, whole / split / source.name)
        images.append({"id": number, "file_name": source.name} | image)
        annotations += [
            {"id": len(annotations) + k, "image_id": number} | one for k, one in enumerate(boxes, 1)
        ]
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (whole / f"annotations/instances_{split}.json").write_bytes(orjson.dumps(content))
    return len(images), len(annotations), sum(one["iscrowd"] for one in annotations)


def _read_xml(path: Path) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Return the size of an image and its boxes, both as COCO has them."""
    try:
        root = ElementTree.parse(path).getroot()
        size = {key: _number(root, f"size/{key}") for key in ("height", "width")}
        return {key: int(value) for key, value in size.items()}, [_box(one) for one in root.iter("object")]
    except FileNotFoundError:
        raise UserError(f"{path}: is missing, but an image list names it") from None
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{path}: not an annotation of Pascal VOC: {error}") from None


def _box(one: ElementTree.Element) -> dict[str, Any]:
    name = (one.findtext("name") or "").strip()
    if name not in CLASSES:
        raise ValueError(f"the class {name!r} is none of the {len(CLASSES)}")
    left, top, right, bottom = (_number(one, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
    if right < left or bottom < top:
        raise ValueError(f"a box of {name} ends before it begins")
    width, height = right - left + 1, bottom - top + 1
    return {
        "category_id": 1 + CLASSES.index(name),
        "bbox": [left - 1, top - 1, width, height],
        "area": width * height,
        "iscrowd": int((one.findtext("difficult") or "0").strip() == "1"),
    }


def _number(element: ElementTree.Element, path: str) -> float:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"it has no {path}")
    return float(text)


def _link(source: Path, place: Path) -> None:
    try:
        os.link(source, place)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, place)
