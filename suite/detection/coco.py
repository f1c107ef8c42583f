"""The images and boxes of a folder in COCO's format. Numpy only.

Shape suffixes: N images, A annotations (boxes), B the boxes of one image.
"""

import functools
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from suite.data.index import Int64s
from suite.data.sources import dataset_folder
from suite.detection.coco_json import Instances, read_instances
from suite.errors import UserError
from suite.experiment import DataSpec

Split = Literal["train", "val"]
Bools = NDArray[np.bool_]
# Where a split's JSON and its images are, in the order in which they are looked for.
LAYOUTS = (
    ("annotations/instances_{split}2017.json", "{split}2017"),
    ("annotations/instances_{split}.json", "{split}"),
)
MIN_SIDE = 1.0
"""In pixels. An image whose boxes all have a side of at most this is not trained on, as in torchvision's
reference."""

log = logging.getLogger("shiftbench")


@dataclass(frozen=True)
class CocoIndex:
    """The images of one split, ordered by id, with their boxes.

    Labels are 1 … K, in the order of the category ids; 0 is the background. `file` is the JSON. Names are
    relative to `folder`, and bytes in one array; the boxes of all images are in arrays, too, which indexes
    that `take` returns share.
    """

    folder: Path
    file: Path
    image_ids_N: Int64s
    names_N: NDArray[np.bytes_]
    heights_N: Int64s
    widths_N: Int64s
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    rows_N2: Int64s
    instances: Instances

    def __len__(self) -> int:
        return len(self.image_ids_N)

    def path(self, image: int) -> str:
        return os.fsdecode(self.path_bytes(image))

    def path_bytes(self, image: int) -> bytes:
        return os.path.join(os.fsencode(self.folder), bytes(self.names_N[image]))  # noqa: PTH118

    def read(self, image: int, *, checked: bool = False) -> NDArray[np.uint8]:
        return np.fromfile(self.path_bytes(image), np.uint8)

    def shape(self, image: int) -> tuple[int, int]:
        """Return height and width, as the JSON has them."""
        return int(self.heights_N[image]), int(self.widths_N[image])

    def boxes(self, image: int) -> NDArray[np.float32]:
        """Return the boxes (B, 4), XYXY in pixels."""
        boxes_B4 = self.instances.boxes_A4[self._rows(image)]
        return np.concatenate([boxes_B4[:, :2], boxes_B4[:, :2] + boxes_B4[:, 2:]], 1).astype(np.float32)

    def labels(self, image: int) -> Int64s:
        return self.instances.labels_A[self._rows(image)].astype(np.int64)

    def areas(self, image: int) -> NDArray[np.float64]:
        """Return the areas of the objects in pixels, as the JSON has them."""
        return self.instances.areas_A[self._rows(image)]

    def is_crowd(self, image: int) -> Bools:
        return self.instances.is_crowd_A[self._rows(image)]

    def segmentations(self, image: int) -> list[Any]:
        """Return the masks as in the JSON: polygons, an RLE, or None where there is none."""
        rows = self._rows(image)
        return [orjson.loads(self.instances.segmentation(row)) for row in range(rows.start, rows.stop)]

    @property
    def without_mask(self) -> int:
        """The number of boxes without a mask."""
        sums_A = np.concatenate([[0], np.cumsum(self.instances.lacks_mask_A)])
        return int((sums_A[self.rows_N2[:, 1]] - sums_A[self.rows_N2[:, 0]]).sum())

    def take(self, images_K: Int64s) -> "CocoIndex":
        """Return the index of these images only, in this order."""
        names = ("image_ids_N", "names_N", "heights_N", "widths_N", "rows_N2")
        return replace(self, **{name: getattr(self, name)[images_K] for name in names})

    def with_boxes(self) -> "CocoIndex":
        """Return the images to train on: those with a box that is no crowd, its sides above `MIN_SIDE`.

        Raises UserError if there is none.
        """
        kept_K = np.flatnonzero(self.has_box_N)
        if not len(kept_K):
            raise UserError(f"{self.file}: no image has a box to train on")
        return self.take(kept_K)

    @property
    def has_box_N(self) -> Bools:
        """Whether an image has a box to train on."""
        one = self.instances
        is_usable_A = ~one.is_crowd_A & (one.boxes_A4[:, 2:] > MIN_SIDE).all(axis=1)
        sums_A = np.concatenate([[0], np.cumsum(is_usable_A)])
        has_box_N: Bools = sums_A[self.rows_N2[:, 1]] > sums_A[self.rows_N2[:, 0]]
        return has_box_N

    def _rows(self, image: int) -> slice:
        first, end = self.rows_N2[image].tolist()
        return slice(first, end)


def read_split(data: DataSpec, split: Split) -> CocoIndex:
    """Return the images of a split of `data`, prepared first if its source is a known one.

    Logs how many boxes are crowds or have no area, and how many files are missing. Cached until the process
    ends. Raises UserError for a folder without a layout of COCO, a JSON that is no COCO or contradicts
    itself, another number of categories than `data.num_classes`, and a folder without any of the images.
    """
    index = _read(dataset_folder(data), split)
    if (count := len(index.category_ids)) != data.num_classes:
        raise UserError(f"{index.file}: has {count} categories, but data.num_classes is {data.num_classes}")
    return index


def check_categories(train: CocoIndex, val: CocoIndex) -> None:
    """Raise UserError if the splits have different categories, so that labels would not match."""
    ours, theirs = (
        dict(zip(one.category_ids, one.category_names, strict=True)).items() for one in (train, val)
    )
    if different := ours ^ theirs:
        number, name = min(different)
        raise UserError(
            f"{train.file} and {val.file} have different categories: {name} (id {number}) is in one"
        )


def split_files(folder: Path, split: str) -> tuple[Path, Path]:
    """Return a split's JSON and its folder of images. Raises UserError if no layout fits."""
    for json_name, images_name in LAYOUTS:
        file, images = folder / json_name.format(split=split), folder / images_name.format(split=split)
        if file.is_file():
            if not images.is_dir():
                raise UserError(f"{folder}: has {file.name}, but no folder {images.name}/ with its images")
            return file, images
    looked = " or ".join(" with ".join(part.format(split=split) for part in one) for one in LAYOUTS)
    raise UserError(f"{folder}: no data set in COCO's format: looked for {looked}/")


@functools.lru_cache(maxsize=4)
def _read(folder: Path, split: str) -> CocoIndex:
    file, images = split_files(folder, split)
    images_table, categories, instances = read_instances(file)
    inner = os.fsencode(images.name)
    names_N = np.array([os.path.join(inner, os.fsencode(name)) for name in images_table.names])  # noqa: PTH118
    ids_N = images_table.ids_N
    rows_N2 = np.stack([np.searchsorted(instances.image_ids_A, ids_N, side) for side in ("left", "right")], 1)
    index = CocoIndex(
        folder,
        file,
        ids_N,
        names_N,
        images_table.heights_N,
        images_table.widths_N,
        tuple(categories),
        tuple(categories.values()),
        rows_N2,
        instances,
    )
    _check_files(index)
    crowds, flat = instances.is_crowd_A.sum(), (instances.boxes_A4[:, 2:] == 0).any(axis=1).sum()
    boxes, without = len(instances.areas_A), (~index.has_box_N).sum()
    for count, what in (
        (crowds, f"{boxes} boxes mark crowds: ignored in evaluation, left out in training"),
        (flat, f"{boxes} boxes have no area: left out in training"),
        (without * (split == "train"), f"{len(index)} images have no box to train on, and are left out"),
    ):
        if count:
            log.info("%s: %d of %s", file, count, what)
    return index


def _check_files(index: CocoIndex) -> None:
    """Warn of images that are missing. Raises UserError if all are."""
    there = set[bytes]()
    folders = {os.path.dirname(name) for name in index.names_N.tolist()}  # noqa: PTH120
    for inner in folders:
        path = os.path.join(os.fsencode(index.folder), inner)  # noqa: PTH118
        if os.path.isdir(path):  # noqa: PTH112
            there |= {os.path.join(inner, name) for name in os.listdir(path)}  # noqa: PTH118, PTH208
    missing = [name for name in index.names_N.tolist() if name not in there]
    if missing:
        first = os.fsdecode(missing[0])
        about = f"{len(missing)} of the {len(index)} images of {index.file.name} are missing, such as {first}"
        if len(missing) == len(index):
            raise UserError(f"{index.folder}: {about}")
        log.warning("%s: %s", index.folder, about)
