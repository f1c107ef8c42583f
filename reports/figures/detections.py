"""A gallery of what detectors found in a few images, as runs have kept them. Drawn by the page's template."""

import base64
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from reports.frames import Frames
from suite.files import read_json
from suite.paths import RunPaths
from suite.record.shapes import COUNT, NUMBER, TEXT, fault_in, list_of

MAX_RUNS, MAX_IMAGES, MAX_BOXES, MAX_JPEG = 6, 4, 16, 200_000
_SIDE = list_of(NUMBER)
_BOX = {"box": _SIDE.required(), "name": TEXT.required(), "score": NUMBER.or_null()}
_IMAGE = {"width": COUNT.required(), "height": COUNT.required(), "jpeg": TEXT.required()}


@dataclass(frozen=True)
class Box:
    """A box in pixels of its image; `score` is None for a true one."""

    x: float
    y: float
    width: float
    height: float
    name: str
    score: float | None


@dataclass(frozen=True)
class Picture:
    """An image, as JPEG in base64, with the true boxes and those that were found."""

    width: int
    height: int
    jpeg: str
    truth: list[Box]
    found: list[Box]


@dataclass(frozen=True)
class Predictions:
    """The pictures of one run."""

    label: str
    norm: str
    pictures: list[Picture]


def predictions(frames: Frames) -> list[Predictions]:
    """Return pictures of the first completed run of each norm, at most MAX_RUNS, without damaged ones."""
    runs = frames.completed[frames.completed.task == "detection"].drop_duplicates(["arch", "norm"])
    found = []
    for _, run in runs.head(MAX_RUNS).iterrows():
        pictures = list(_pictures(RunPaths(str(run.folder))))
        if pictures:
            found.append(Predictions(f"{run.norm}, seed {run.seed}", str(run.norm), pictures))
    return found


def _pictures(paths: RunPaths) -> Iterator[Picture]:
    try:
        content = read_json(paths.gallery)
    except OSError:
        return
    for one in content[:MAX_IMAGES] if isinstance(content, list) else []:
        if fault_in(one, _IMAGE) or not _is_jpeg(one["jpeg"]):
            continue
        boxes = [list(_boxes(one.get(key))) for key in ("truth", "found")]
        yield Picture(one["width"], one["height"], one["jpeg"], *boxes)


def _is_jpeg(text: str) -> bool:
    """Return whether a text is a small JPEG in base64, as a data: address may contain."""
    if len(text) > MAX_JPEG:
        return False
    try:
        return base64.b64decode(text, validate=True).startswith(b"\xff\xd8")
    except ValueError:
        return False


def _boxes(content: Any) -> Iterator[Box]:
    for one in content[:MAX_BOXES] if isinstance(content, list) else []:
        if fault_in(one, _BOX) is None and len(one["box"]) == 4 and all(map(math.isfinite, one["box"])):
            x, y, right, bottom = one["box"]
            yield Box(x, y, max(0.0, right - x), max(0.0, bottom - y), one["name"], one.get("score"))
