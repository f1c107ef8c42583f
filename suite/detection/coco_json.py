"""Reads a JSON of COCO's instances into arrays, and refuses one that contradicts itself. Numpy only.

COCO's 860,000 boxes take 50 MB as arrays; their masks stay JSON, in one array of bytes, until they are used.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from suite.data.index import Int64s
from suite.errors import UserError
from suite.files import read_whole
from suite.large_imports import collecting_no_garbage
from suite.wording import shown

PARTS = ("images", "annotations", "categories")
Record = dict[str, Any]


@dataclass(frozen=True)
class Images:
    """The images, ordered by id; sizes in pixels."""

    ids_N: Int64s
    names: list[str]
    heights_N: Int64s
    widths_N: Int64s


@dataclass(frozen=True)
class Instances:
    """The annotations, ordered by image id and then as in the JSON.

    Boxes are XYWH in pixels; where the JSON has no area, it is that of the box. `segmentations` holds the
    JSON of all masks, each up to its end.
    """

    image_ids_A: Int64s
    boxes_A4: NDArray[np.float64]
    labels_A: NDArray[np.int32]
    areas_A: NDArray[np.float64]
    is_crowd_A: NDArray[np.bool_]
    segmentations: NDArray[np.uint8]
    ends_A: Int64s

    def segmentation(self, row: int) -> bytes:
        """Return the mask of a box as JSON; null where there is none."""
        return self.segmentations[self.ends_A[row - 1] if row else 0 : self.ends_A[row]].tobytes()

    @property
    def lacks_mask_A(self) -> NDArray[np.bool_]:
        return np.diff(self.ends_A, prepend=0) <= len(b"null")


def read_instances(file: Path) -> tuple[Images, dict[int, str], Instances]:
    """Return the images, the categories' names by id (ordered by id), and the annotations.

    Raises UserError for content that is not COCO's, ids and file names that repeat, annotations of unknown
    images or categories, and boxes that are not four finite numbers of which the last two are at least 0.
    """
    try:
        with collecting_no_garbage():
            images, annotations, categories = _parts(read_whole(file))
            names = _categories(categories)
            table = _images(images)
            return table, names, _instances(annotations, table, names)
    except _Fault as fault:
        raise UserError(f"{file}: {fault}") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None


class _Fault(Exception):
    """What is wrong with the content."""


def _parts(content: bytes | None) -> tuple[list[Record], ...]:
    if content is None:
        raise _Fault("is missing")
    try:
        whole = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise _Fault(f"is not JSON: {error}") from None
    lists = [whole.get(part) if isinstance(whole, dict) else None for part in PARTS]
    for part, records in zip(PARTS, lists, strict=True):
        if not isinstance(records, list) or not all(type(record) is dict for record in records):
            raise _Fault(f"is not COCO's instances: expected a list of objects in {part!r}")
        if not records and part != "annotations":
            raise _Fault(f"has no {part}")
    return tuple(list(records or []) for records in lists)


def _categories(records: list[Record]) -> dict[int, str]:
    ids = _numbers(records, "id", "category")
    _refuse_repeated(ids, "category id")
    names = [_text(record, "name", f"category {record['id']}") for record in records]
    _refuse_repeated(names, "category name")
    return dict(sorted(zip(ids, names, strict=True)))


def _images(records: list[Record]) -> Images:
    ids = _numbers(records, "id", "image")
    _refuse_repeated(ids, "image id")
    names = [_text(record, "file_name", f"image {record['id']}") for record in records]
    _refuse_repeated(names, "image")
    sizes_2N = [_numbers(records, key, "image", at_least=1) for key in ("height", "width")]
    order_N = np.argsort(ids, kind="stable")
    columns = [np.array(column, np.int64)[order_N] for column in (ids, *sizes_2N)]
    return Images(columns[0], [names[i] for i in order_N], columns[1], columns[2])


def _instances(records: list[Record], images: Images, names: dict[int, str]) -> Instances:
    _refuse_repeated(_numbers(records, "id", "annotation"), "annotation id")
    image_ids_A = np.array(_numbers(records, "image_id", "annotation"), np.int64)
    category_ids_A = np.array(_numbers(records, "category_id", "annotation"), np.int64)
    for ids_A, known, what in (
        (image_ids_A, images.ids_N, "image"),
        (category_ids_A, np.array(list(names)), "category"),
    ):
        if unknown := np.flatnonzero(~np.isin(ids_A, known)).tolist():
            about = f"annotation {records[unknown[0]]['id']} has the {what} {ids_A[unknown[0]]}"
            raise _Fault(f"{about}, which {PARTS[0 if what == 'image' else 2]!r} does not list")
    boxes_A4 = _boxes(records)
    given = (record.get("area") for record in records)
    areas_A = np.array([area if type(area) in (int, float) else np.nan for area in given], np.float64)
    areas_A = np.where(np.isnan(areas_A), boxes_A4[:, 2] * boxes_A4[:, 3], areas_A)
    order_A = np.argsort(image_ids_A, kind="stable")
    masks, ends = bytearray(), list[int]()
    for i in order_A.tolist():
        masks += orjson.dumps(records[i].get("segmentation") or None)  # kept one by one, each would take 8 kB
        ends.append(len(masks))
    return Instances(
        image_ids_A[order_A],
        boxes_A4[order_A],
        (1 + np.searchsorted(list(names), category_ids_A[order_A])).astype(np.int32),
        areas_A[order_A],
        np.array([bool(record.get("iscrowd", 0)) for record in records], bool)[order_A],
        np.frombuffer(masks, np.uint8),
        np.array(ends, np.int64),
    )


def _boxes(records: list[Record]) -> NDArray[np.float64]:
    boxes = list[list[float]]()
    for record in records:
        box = record.get("bbox")
        is_box = type(box) is list and len(box) == 4 and all(type(side) in (int, float) for side in box)
        if box is None or not is_box or box[2] < 0 or box[3] < 0:
            expected = "four numbers x, y, width ≥ 0, height ≥ 0"
            raise _Fault(f"annotation {record['id']}: `bbox` is {shown(box)}; expected {expected}")
        boxes.append(box)
    return np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes)).reshape(-1, 4)


def _numbers(records: list[Record], key: str, what: str, at_least: int = -(2**63)) -> list[int]:
    values = [record.get(key) for record in records]
    for place, value in enumerate(values):
        if type(value) is not int or not at_least <= value < 2**63:
            which = records[place].get("id", f"number {place + 1}") if key != "id" else f"number {place + 1}"
            expected = "a whole number" if at_least < 0 else f"a whole number ≥ {at_least}"
            raise _Fault(f"{what} {which}: `{key}` is {shown(value)}; expected {expected}")
    return values  # type: ignore[return-value]


def _text(record: Record, key: str, what: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value or "\0" in value:
        raise _Fault(f"{what}: `{key}` is {shown(value)}; expected text")
    return value


def _refuse_repeated(values: list[Any], what: str) -> None:
    if len(set(values)) < len(values):
        ((value, count),) = Counter(values).most_common(1)
        raise _Fault(f"the {what} {shown(value)} is there {count} times; expected once")
