"""Top-1 of detectors: whether the detection of an image that has the highest score is right.

Average precision is no mean over images, so that its differences cannot be paired by image; those of this
share can. Boxes are (B, 4), XYXY in pixels of the image that the network was given.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

LEAST_IOU = 0.5
MEANING = (
    "Top-1 of a detector is the share of images whose detection with the highest score has the class of an "
    f"object and an IoU of at least {LEAST_IOU} with it, or that have neither objects nor detections."
)
FOUND, TRUE = ("boxes", "labels", "scores"), ("boxes", "labels")


def right_detections(batch: Any, output: Any) -> Tensor | None:
    """Return for which images the first detection is right, (N,) bool on the CPU.

    `output`: what torchvision's detectors return, a mapping with `FOUND` for each image. `batch`: has
    `targets`, as an attribute, a key or its second part: a mapping with `TRUE` for each image. None where
    either is something else.
    """
    targets = _targets_of(batch)
    if not _are_mappings(output, FOUND) or not _are_mappings(targets, TRUE):
        return None
    pairs = zip(targets, output, strict=True)
    return torch.tensor([_is_right(target, found) for target, found in pairs], dtype=torch.bool)


def _is_right(target: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> bool:
    if not len(found["scores"]):
        return not len(target["boxes"])
    best = int(found["scores"].argmax())
    boxes_B4 = target["boxes"].to(found["boxes"])
    of_class_B4 = boxes_B4[(target["labels"].to(found["labels"]) == found["labels"][best])]
    return bool((box_iou(found["boxes"][best, None], of_class_B4) >= LEAST_IOU).any())


def _targets_of(batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return batch.get("targets")
    if isinstance(batch, Sequence):
        return batch[1] if len(batch) > 1 else None
    return getattr(batch, "targets", None)


def _are_mappings(value: Any, keys: tuple[str, ...]) -> bool:
    """Return whether this is a sequence of mappings that have these keys."""
    is_sequence = isinstance(value, Sequence) and bool(value)
    return is_sequence and all(isinstance(one, Mapping) and all(key in one for key in keys) for one in value)
