"""fashion-scenes: a small set for detection, composed of garments of Fashion-MNIST on backgrounds.

No photographed set with boxes comes with the packages. Every pixel follows from whole-number arithmetic on
Philox's raw words, so the files are the same on every machine with the same backgrounds: photographs of
Debian's package mate-backgrounds if it is installed, otherwise plain, graded and noisy canvases.
"""

import struct
import zlib
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from suite.data.idx import Bytes, read_split
from suite.data.plan import random_words
from suite.data.sources import FASHION_CLASSES, SUBSET_FOLDER

SCENES = {"train": 600, "val": 200}
SIDES = (96, 128)
GARMENT_SIDES = (28, 56)
GARMENTS = (2, 4)
"""The least and the most; in pixels, for the two ranges above."""
LEAST_VISIBLE = 0.7
"""The share of a garment that those above it leave visible."""
PHOTOGRAPHS = Path("/usr/share/backgrounds/mate/nature")
PHOTOGRAPH_SIDE = 192
SEED = 2023
ATTEMPTS = 50
Mask = NDArray[np.bool_]


class Draws:
    """Random whole numbers of one scene."""

    def __init__(self, split: str, number: int) -> None:
        self._words = iter(random_words(SEED, number, list(SCENES).index(split), 4096).tolist())

    def between(self, low: int, high: int) -> int:
        """Return one of low … high."""
        return low + int(next(self._words)) % (high - low + 1)

    def colour(self, low: int) -> NDArray[np.int64]:
        """Return red, green and blue, each from `low` to 255."""
        return np.array([self.between(low, 255) for _ in range(3)])


@dataclass(frozen=True)
class Scene:
    """An image and the visible pixels of its garments, whose labels are Fashion-MNIST's."""

    image_HWC: Bytes
    masks: list[Mask]
    labels: list[int]


def fashion_scenes(draft: Path) -> Path:
    """Write the set in COCO's format below `draft` and return its folder.

    Training and validation share neither garments nor, if there are two or more, photographs.
    """
    folder = draft / "scenes"
    (folder / "annotations").mkdir(parents=True)
    names = sorted(path.name for path in PHOTOGRAPHS.glob("*.jpg")) if PHOTOGRAPHS.is_dir() else []
    for split, count in SCENES.items():
        images_NHW, labels_N = read_split(SUBSET_FOLDER, split)
        of_split = names[list(SCENES).index(split) :: len(SCENES)] or names
        photographs = [_photograph(PHOTOGRAPHS / name) for name in of_split]
        images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
        (folder / split).mkdir()
        for number in range(count):
            those = slice(number * GARMENTS[1], (number + 1) * GARMENTS[1])
            scene = compose(Draws(split, number), images_NHW[those], labels_N[those], photographs)
            name, (height, width, _) = f"{number:05d}.png", scene.image_HWC.shape
            (folder / split / name).write_bytes(png(scene.image_HWC))
            images.append({"id": number + 1, "file_name": name, "height": height, "width": width})
            for mask_HW, label in zip(scene.masks, scene.labels, strict=True):
                ids = {"id": len(annotations) + 1, "image_id": number + 1, "category_id": label + 1}
                annotations.append(ids | _shape_of(mask_HW))
        info = {
            "description": "fashion-scenes",
            "backgrounds": of_split or "plain, graded and noisy canvases",
        }
        content = {"info": info, "images": images, "annotations": annotations, "categories": _categories()}
        (folder / f"annotations/instances_{split}.json").write_bytes(orjson.dumps(content))
    return folder


def compose(draws: Draws, garments_NHW: Bytes, labels_N: Bytes, photographs: list[Bytes]) -> Scene:
    """Return a scene of the first garments, at least two, tinted, each above the ones before it."""
    height, width = draws.between(*SIDES), draws.between(*SIDES)
    image_HWC = _background(draws, height, width, photographs)
    masks, labels = list[Mask](), list[int]()
    for garment_HW, label in zip(garments_NHW[: draws.between(*GARMENTS)], labels_N, strict=False):
        side, tint = draws.between(*GARMENT_SIDES), draws.colour(64)
        pixels_HW = enlarged(garment_HW, side)
        for _ in range(ATTEMPTS):
            top, left = draws.between(0, height - side), draws.between(0, width - side)
            window = slice(top, top + side), slice(left, left + side)
            mask_HW = np.zeros((height, width), bool)
            mask_HW[window] = pixels_HW > 16
            if _leaves_visible(mask_HW, masks):
                masks = [mask & ~mask_HW for mask in masks] + [mask_HW]
                labels.append(int(label))
                light_HW1 = 48 + pixels_HW[..., None] * 207 // 255
                image_HWC[mask_HW] = (light_HW1 * tint // 255).astype(np.uint8)[mask_HW[window]]
                break
    return Scene(image_HWC, masks, labels)


def _leaves_visible(mask_HW: Mask, masks: list[Mask]) -> bool:
    return all((mask & ~mask_HW).sum() >= LEAST_VISIBLE * mask.sum() for mask in masks)


def _background(draws: Draws, height: int, width: int, photographs: list[Bytes]) -> Bytes:
    if photographs:
        photograph_HWC = photographs[draws.between(0, len(photographs) - 1)]
        top, left = (
            draws.between(0, size - side)
            for size, side in zip(photograph_HWC.shape[:2], (height, width), strict=True)
        )
        return photograph_HWC[top : top + height, left : left + width].copy()
    kind, first_C, second_C = draws.between(0, 2), draws.colour(0), draws.colour(0)
    if kind == 0:
        pixels_HWC = np.broadcast_to(first_C, (height, width, 3))
    elif kind == 1:
        share_HW1 = (np.arange(height)[:, None] * 3 + np.arange(width)[None, :])[..., None]
        last = 3 * (height - 1) + width - 1
        pixels_HWC = (first_C * (last - share_HW1) + second_C * share_HW1) // last
    else:
        words = random_words(SEED, draws.between(0, 2**32), len(SCENES), -(-height * width * 3 // 8))
        noise_HWC = words.astype("<u8").view(np.uint8)[: height * width * 3].reshape(height, width, 3)
        pixels_HWC = (3 * first_C + noise_HWC) // 4
    return pixels_HWC.astype(np.uint8)


def enlarged(pixels_HW: Bytes, side: int) -> NDArray[np.int64]:
    """Return a square image bilinearly resized to `side`, pixels' centres aligned, in whole numbers."""
    size, unit = len(pixels_HW), 2 * side
    place_S = np.clip((2 * np.arange(side) + 1) * size - side, 0, (size - 1) * unit)
    low_S, share_S = np.divmod(place_S, unit)
    high_S = np.minimum(low_S + 1, size - 1)
    wide_HW = pixels_HW.astype(np.int64)
    rows = wide_HW[low_S] * (unit - share_S)[:, None] + wide_HW[high_S] * share_S[:, None]
    whole = rows[:, low_S] * (unit - share_S) + rows[:, high_S] * share_S
    resized_HW: NDArray[np.int64] = (whole + unit**2 // 2) // unit**2
    return resized_HW


def _photograph(path: Path) -> Bytes:
    """Return a photograph whose shorter side is `PHOTOGRAPH_SIDE`."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        scale = PHOTOGRAPH_SIDE / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        return np.asarray(ImageOps.fit(image.convert("RGB"), size, Image.Resampling.BOX))


def _shape_of(mask_HW: Mask) -> dict[str, Any]:
    """Return the box, area and runs of a mask, as COCO has them."""
    ys, xs = np.nonzero(mask_HW)
    left, top = int(xs.min()), int(ys.min())
    runs = [(is_inside, len(list(group))) for is_inside, group in groupby(mask_HW.T.ravel().tolist())]
    counts = [length for _, length in runs]
    return {
        "bbox": [left, top, int(xs.max()) + 1 - left, int(ys.max()) + 1 - top],
        "area": len(xs),
        "iscrowd": 0,
        "segmentation": {"size": list(mask_HW.shape), "counts": [0, *counts] if runs[0][0] else counts},
    }


def _categories() -> list[dict[str, Any]]:
    names = [name.partition("-")[2] for name in FASHION_CLASSES]
    return [{"id": number, "name": name, "supercategory": "garment"} for number, name in enumerate(names, 1)]


def png(image_HWC: Bytes) -> bytes:
    """Return an RGB image as PNG. It is not compressed, since libraries compress to different bytes."""
    height, width, _ = image_HWC.shape
    lines = np.zeros((height, 1 + 3 * width), np.uint8)  # each line begins with its filter, none
    lines[:, 1:] = image_HWC.reshape(height, -1)
    data = lines.tobytes()
    parts = [data[first : first + 65535] for first in range(0, len(data), 65535)]
    stored = b"".join(
        struct.pack("<BHH", place == len(parts), len(part), 65535 - len(part)) + part
        for place, part in enumerate(parts, 1)
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(data))
    chunks = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
