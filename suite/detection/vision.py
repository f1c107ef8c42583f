"""Detection's loader on torchvision: worker processes decode and resize, and make the targets."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from suite.data.plan import Share
from suite.data.vision import WorkerBatch, WorkerLoader, decode, decoded_images
from suite.data.workers import held_batches
from suite.detection.batch import DetectionBatch, Target, batch_of, target_of
from suite.detection.coco import CocoIndex
from suite.detection.resize import Resize

Content = tuple[list[Tensor], list[dict[str, Any]]]


class DetectionVisionLoader(WorkerLoader[Content, DetectionBatch]):
    """The batches of `share`, made by `num_workers` processes."""

    def __init__(
        self,
        share: Share[CocoIndex],
        resize: Resize,
        *,
        num_workers: int,
        timeout_s: float,
        device: torch.device,
    ) -> None:
        self._index = share.index
        held = held_batches(num_workers, share.num_batches) * share.images_per_batch
        super().__init__(
            share,
            PlannedDetections(share, resize),
            needed_bytes=held * resize.bytes_per_image,
            num_workers=num_workers,
            timeout_s=timeout_s,
            device=device,
        )

    def _batch(self, content: Content) -> DetectionBatch:
        images, targets = content
        return batch_of(images, [_received(target) for target in targets], self._device)

    def _fault(self, image: int) -> str | None:
        result = decode_sized(self._index, image)
        return result if isinstance(result, str) else None


class PlannedDetections(Dataset[WorkerBatch[Content]]):
    """A share's batches by number, as uint8 images of the size that the network takes."""

    def __init__(self, share: Share[CocoIndex], resize: Resize) -> None:
        self._share, self._resize = share, resize

    def __getitem__(self, number: int) -> WorkerBatch[Content]:
        samples, index = self._share.batch(number), self._share.index
        found, bad = decoded_images(samples, index, partial(decode_sized, index))
        if not found:
            return None, bad
        images, targets = list[Tensor](), list[dict[str, Any]]()
        for j, image, pixels_CHW in found:
            is_mirrored = samples.crops is not None and bool(samples.crops.mirror_B[j])
            shape = self._resize.shape(*index.shape(image))
            resized_CHW = F.resize(pixels_CHW, list(shape), antialias=True)
            images.append(F.horizontal_flip(resized_CHW).contiguous() if is_mirrored else resized_CHW)
            targets.append(_sent(target_of(index, image, self._resize, is_mirrored=is_mirrored)))
        return (images, targets), bad


def _sent(target: Target) -> dict[str, Any]:
    """Return a target as it goes to another process: each tensor would need a shared memory of its own."""
    return {key: value if key == "masks" else value.numpy() for key, value in target.items()}


def _received(target: dict[str, Any]) -> Target:
    return {key: torch.as_tensor(value) for key, value in target.items()}


def decode_sized(index: CocoIndex, image: int) -> Tensor | str:
    """Return an image in RGB, uint8, CHW; or why it has none, or another size than in the JSON."""
    pixels_CHW = decode(index, image)
    if isinstance(pixels_CHW, str):
        return pixels_CHW
    height, width = pixels_CHW.shape[1:]
    return size_fault(index, image, height, width) or pixels_CHW


def size_fault(index: CocoIndex, image: int, height: int, width: int) -> str | None:
    """Return what is wrong with a size in pixels if it is not that of the JSON."""
    if (height, width) == index.shape(image):
        return None
    expected = " × ".join(map(str, index.shape(image)[::-1]))
    return f"is {width} × {height} pixels, but {index.file.name} says {expected}"
