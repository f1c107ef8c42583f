"""Small folders in COCO's format."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from suite.experiment import DataSpec

Content = dict[str, Any]
CATEGORIES = [{"id": 7, "name": "cup"}, {"id": 3, "name": "tin"}]  # with gaps, and not in order


def box(number: int, image: int, bbox: list[float], category: int = 3, **more: Any) -> Content:
    """An annotation whose mask is its box."""
    x, y, w, h = bbox
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": bbox,
        "area": w * h,
        "iscrowd": 0,
        "segmentation": [polygon],
    } | more


def small_content() -> Content:
    """Five images: with two boxes, with none, with a crowd, with a box without area, with one box."""
    sizes = {40: (30, 50), 10: (50, 30), 20: (40, 40), 30: (24, 32), 50: (32, 32)}
    return {
        "images": [
            {"id": number, "file_name": f"{number:03d}.png", "height": h, "width": w}
            for number, (h, w) in sizes.items()
        ],
        "annotations": [
            box(1, 40, [5, 6, 20.5, 10]),
            box(2, 50, [0, 0, 30, 30], area=777),
            box(3, 40, [1, 2, 3, 4], 7),
            box(4, 20, [2, 2, 20, 20], iscrowd=1),
            box(5, 30, [8, 8, 0, 5]),
        ],
        "categories": CATEGORIES,
    }


def write_coco(
    folder: Path,
    train: Content | None = None,
    val: Content | None = None,
    *,
    year: str = "",
    damage: Callable[[Content], object] | None = None,
) -> Path:
    """Write both splits with pictures of noise; `damage` changes the training JSON afterwards."""
    (folder / "annotations").mkdir(parents=True)
    for split, content in (("train", train or small_content()), ("val", val or small_content())):
        images = folder / f"{split}{year}"
        images.mkdir()
        for one in content["images"]:
            pixels = np.random.default_rng(one["id"]).integers(0, 256, (one["height"], one["width"], 3))
            Image.fromarray(pixels.astype(np.uint8)).save(images / one["file_name"])
        if split == "train" and damage is not None:
            damage(content)
        (folder / f"annotations/instances_{split}{year}.json").write_text(json.dumps(content))
    return folder


def data_of(folder: Path, num_classes: int = 2, **more: Any) -> DataSpec:
    return DataSpec(name="test", path=str(folder), num_classes=num_classes, **more)
