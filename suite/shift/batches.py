"""What loaders yield and networks return: images, labels and logits, in the forms that are common."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from suite.errors import UserError
from suite.shift.detections import right_detections

IMAGES = ("pixel_values", "images", "image", "inputs", "input", "x")
LABELS = ("labels", "label", "targets", "target", "y")
LOGITS = ("logits", "out", "output", "outputs")

# Takes what a network returns and gives its (N, K) logits.
Logits = Callable[[Any], Tensor]
# (N, C, *), or images (3, H, W) of different sizes in a list, as torchvision's detectors take them.
Images = Tensor | list[Tensor]


def images_of(batch: Any, purpose: str) -> Images:
    """Return the images of a batch: (N, C, *), or a list of N images (3, H, W) for a detector.

    A batch is a tensor, (images, labels), a list of images, (images, targets) with the images in a list or
    tuple, a mapping with one of the keys `IMAGES`, or an object with `images_NCHW` or `images`. Raises
    UserError, led by `purpose`, for another one, and for images of whole numbers 0 to 255, which no network
    is trained on.
    """
    images = batch
    if hasattr(batch, "images_NCHW"):
        images = batch.images_NCHW
    elif hasattr(batch, "images"):
        images = batch.images
    elif isinstance(batch, Mapping):
        images = _first(batch, IMAGES)
    elif isinstance(batch, tuple | list) and batch and not (isinstance(batch, list) and _are_images(batch)):
        images = batch[0]
    parts = list(images) if _are_images(images) else [images]
    if not all(isinstance(part, Tensor) for part in parts):
        found = f"{type(batch).__module__}.{type(batch).__qualname__}".removeprefix("builtins.")
        inside = f", which holds {type(images).__name__}" if images is not batch else ""
        raise UserError(
            f"{purpose}: a batch is {found}{inside}; expected a tensor of images, (images, labels), a "
            f"mapping with {' or '.join(IMAGES[:2])}, or for a detector a list of images (3, H, W)"
        )
    if any(part.dtype is torch.uint8 for part in parts):
        raise UserError(
            f"{purpose}: the images are uint8, 0 to 255; normalise them as in training, as floating point"
        )
    return images if isinstance(images, Tensor) else parts


def placed(images: Images, device: torch.device, dtype: torch.dtype) -> Images:
    """Return the images on a device and, unless they are whole numbers, in a type."""
    if isinstance(images, list):
        return [_placed(image, device, dtype) for image in images]
    return _placed(images, device, dtype)


def means_of(images: Images) -> Tensor:
    """Return the mean value of each image, (N,) on the CPU, which identifies an image in comparisons."""
    if isinstance(images, list):
        return torch.stack([image.float().mean() for image in images]).cpu()
    return images.float().flatten(1).mean(dim=1).cpu()


def _placed(images: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return images.to(device, dtype if images.is_floating_point() else images.dtype, non_blocking=True)


def _are_images(value: Any) -> bool:
    """Return whether this is a list or tuple of images (3, H, W)."""
    if not isinstance(value, tuple | list) or not value:
        return False
    return all(isinstance(one, Tensor) and one.dim() == 3 and len(one) == 3 for one in value)


def labels_of(batch: Any) -> Tensor | None:
    """Return the labels (N,) of a batch as `images_of` takes it, or None."""
    labels: Any = None
    if hasattr(batch, "labels_N"):
        labels = batch.labels_N
    elif isinstance(batch, Mapping):
        labels = _first(batch, LABELS)
    elif isinstance(batch, tuple | list) and len(batch) > 1:
        labels = batch[1]
    return labels if isinstance(labels, Tensor) and labels.dim() == 1 else None


def logits_of(output: Any, logits: Logits | None) -> Tensor | None:
    """Return the (N, K) logits in what a network returns, or None.

    `logits` extracts them; without it they are the output itself, its field or key of `LOGITS`, or the first
    item of a tuple.
    """
    if logits is not None:
        output = logits(output)
    elif isinstance(output, Mapping):
        output = _first(output, LOGITS)
    elif not isinstance(output, Tensor):
        named = [getattr(output, name) for name in LOGITS if isinstance(getattr(output, name, None), Tensor)]
        output = named[0] if named else _first_tensor(output)
    return output if isinstance(output, Tensor) and output.dim() == 2 else None


def right_of(batch: Any, output: Any, logits: Logits | None, purpose: str) -> Tensor | None:
    """Return which images of a batch a network is right about, (N,) bool, by `output`, what it returned.

    Its label is the largest logit, or the first detection of a detector is right (`right_detections`). None
    where there are neither labels and logits nor targets and detections. Raises UserError, led by `purpose`,
    for a label that has no output of the network.
    """
    if logits is None and (right_N := right_detections(batch, output)) is not None:
        return right_N
    logits_NK, labels_N = logits_of(output, logits), labels_of(batch)
    if logits_NK is None or labels_N is None:
        return None
    label, outputs = int(labels_N.max()), logits_NK.shape[1]
    if label >= outputs:
        raise UserError(f"{purpose}: a label is {label}, but the network has {outputs} outputs")
    return logits_NK.argmax(dim=1) == labels_N.to(logits_NK.device)


def _first(mapping: Mapping[Any, Any], keys: Iterable[str]) -> Any:
    return next((mapping[key] for key in keys if key in mapping), None)


def _first_tensor(output: Any) -> Any:
    return output[0] if isinstance(output, tuple | list) and output else None
