"""Masks from polygons and run-length encodings, as the COCO API draws them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite.detection.coco_api import coco_mask
from suite.errors import UserError
from suite.wording import shown

Mask = NDArray[np.uint8]


def mask_of(segmentation: Any, height: int, width: int, where: str) -> Mask:
    """Return the mask (height, width) of 0 and 1 of an annotation's `segmentation`.

    Takes a list of polygons, a compressed RLE and an uncompressed one. Raises UserError, which names `where`
    the annotation is, for anything else.
    """
    mask: Mask = coco_mask.decode(rle_of(segmentation, height, width, where))
    return mask


def rle_of(segmentation: Any, height: int, width: int, where: str) -> dict[str, Any]:
    """Return the compressed RLE of an annotation's `segmentation`. Raises UserError as `mask_of` does."""
    if isinstance(segmentation, dict):
        return _checked_rle(segmentation, height, width, where)
    is_list = isinstance(segmentation, list) and bool(segmentation)
    if not is_list or not all(_is_polygon(one) for one in segmentation):
        expected = "polygons of three points x, y or more each, or an RLE"
        raise UserError(f"{where}: `segmentation` is {shown(segmentation)}; expected {expected}")
    rle: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    return rle


def _is_polygon(one: Any) -> bool:
    """Return whether this is a list of at least three points; the COCO API takes shorter ones for boxes."""
    is_list = isinstance(one, list) and len(one) >= 6 and len(one) % 2 == 0
    return is_list and all(type(value) in (int, float) for value in one)


def _checked_rle(rle: dict[str, Any], height: int, width: int, where: str) -> dict[str, Any]:
    counts, size = rle.get("counts"), rle.get("size")
    if size != [height, width]:
        raise UserError(f"{where}: the RLE's `size` is {shown(size)}, but the image's is [{height}, {width}]")
    if isinstance(counts, list):
        is_whole = all(type(run) is int and run >= 0 for run in counts)
        if not is_whole or sum(counts) != height * width:
            raise UserError(f"{where}: the runs of the RLE are not those of {height} × {width} pixels")
        compressed: dict[str, Any] = coco_mask.frPyObjects(rle, height, width)
        return compressed
    if not isinstance(counts, str) or _decoded_pixels(counts) != height * width:
        raise UserError(f"{where}: the RLE's `counts` do not decode to {height} × {width} pixels")
    return {"size": size, "counts": counts.encode()}


def _decoded_pixels(counts: str) -> int:
    """Return how many pixels the runs of a compressed RLE cover; -1 for a run below 0 or a broken one.

    The decoder in C does not check this, and would write beyond its memory. Each character holds five bits
    of a run and whether more follow; from the third run on, a run is the difference to the one before last.
    """
    runs = list[int]()
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return -1
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return sum(runs) if not shift and min(runs, default=0) >= 0 else -1
