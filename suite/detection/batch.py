"""A batch of detection, and how an image and its targets become the network's input."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from suite.data.loader import BatchLoader, to_device
from suite.detection.coco import CocoIndex
from suite.detection.masks import mask_of
from suite.detection.resize import Resize

Target = dict[str, Tensor]


@dataclass(frozen=True)
class DetectionBatch:
    """Images on the loader's device, each (3, H, W) float32 in [0, 1], not normalised, and their targets.

    A target has the B boxes that are no crowd and have an area: `boxes` (B, 4) float32 XYXY in pixels of the
    resized image, `labels` (B,) int64, `area` (B,) float32 as in the JSON, `iscrowd` (B,) zeros, if asked
    for `masks` (B, H, W) uint8; and `image_id` (1,), `size` (2,) and `orig_size` (2,): height and width.
    """

    images: list[Tensor]
    targets: list[Target]


DetectionLoader = BatchLoader[DetectionBatch]


def batch_of(images: list[Tensor], targets: list[Target], device: torch.device) -> DetectionBatch:
    """Return the batch on a device. `images`: (3, H, W) uint8, on the CPU or the device."""
    on_device = [image if image.device.type == device.type else to_device(image, device) for image in images]
    moved = [{key: to_device(value, device) for key, value in target.items()} for target in targets]
    return DetectionBatch([image.to(torch.float32).div_(255) for image in on_device], moved)


def target_of(index: CocoIndex, image: int, resize: Resize, *, is_mirrored: bool) -> Target:
    """Return an image's target after resizing and mirroring. Raises UserError for a mask that is none.

    Boxes end at the image's border, as in torchvision's reference; masks are resized as torchvision's
    transform does it, by the nearest pixel.
    """
    height, width = index.shape(image)
    new_height, new_width = resize.shape(height, width)
    boxes_B4 = index.boxes(image).clip(0, np.array([width, height] * 2, np.float32))
    kept = np.flatnonzero(~index.is_crowd(image) & (boxes_B4[:, 2:] > boxes_B4[:, :2]).all(axis=1))
    boxes_B4 = boxes_B4[kept] * np.array([new_width / width, new_height / height] * 2, np.float32)
    if is_mirrored:
        boxes_B4[:, [0, 2]] = new_width - boxes_B4[:, [2, 0]]
    target = {
        "boxes": torch.from_numpy(boxes_B4),
        "labels": torch.from_numpy(index.labels(image)[kept]),
        "area": torch.from_numpy(index.areas(image)[kept].astype(np.float32)),
        "iscrowd": torch.zeros(len(kept), dtype=torch.int64),
        "image_id": torch.tensor([int(index.image_ids_N[image])]),
        "size": torch.tensor([new_height, new_width]),
        "orig_size": torch.tensor([height, width]),
    }
    if resize.with_masks:
        masks_BHW = _masks(index, image, kept.tolist(), (new_height, new_width))
        target["masks"] = masks_BHW.flip(2).contiguous() if is_mirrored else masks_BHW
    return target


def _masks(index: CocoIndex, image: int, kept: list[int], shape: tuple[int, int]) -> Tensor:
    if not kept:
        return torch.zeros(0, *shape, dtype=torch.uint8)
    height, width = index.shape(image)
    segmentations = index.segmentations(image)
    where = f"{index.file}: box {{}} of image {index.image_ids_N[image]}"
    drawn = [mask_of(segmentations[box], height, width, where.format(box + 1)) for box in kept]
    masks_BHW = torch.from_numpy(np.stack(drawn))
    return interpolate(masks_BHW[:, None], size=shape, mode="nearest")[:, 0]
