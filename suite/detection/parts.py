"""The parts of torchvision's detectors, by the names of their modules. No torch."""

import math
from collections.abc import Iterable

PARTS = {"backbone": ("backbone.body.",), "FPN": ("backbone.fpn.",), "heads": ("rpn.", "roi_heads.", "head.")}


def part_of(layer: str) -> str | None:
    """Return the part of a detector that a layer belongs to by its name, or None."""
    return next((part for part, begins in PARTS.items() if layer.startswith(begins)), None)


def means_by_part(layers: Iterable[tuple[str, float]]) -> dict[str, tuple[int, float]]:
    """Return for each part that has layers how many, and the mean of their values."""
    found: dict[str, list[float]] = {}
    for name, value in layers:
        if (part := part_of(name)) is not None:
            found.setdefault(part, []).append(value)
    return {
        part: (len(found[part]), math.fsum(found[part]) / len(found[part])) for part in PARTS if part in found
    }
