"""What loaders yield and networks return: images, labels and logits, in the forms that are common."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from suite.errors import UserError

IMAGES = ("pixel_values", "images", "image", "inputs", "input", "x")
LABELS = ("labels", "label", "targets", "target", "y")
LOGITS = ("logits", "out", "output", "outputs")

# Takes what a network returns and gives its (N, K) logits.
Logits = Callable[[Any], Tensor]


def images_of(batch: Any, purpose: str) -> Tensor:
    """Return the images (N, C, *) of a batch.

    A batch is a tensor, (images, labels), a mapping with one of the keys `IMAGES`, or an object with
    `images_NCHW`. Raises UserError, led by `purpose`, for another one, and for images of whole numbers 0 to
    255, which no network is trained on.
    """
    images = batch
    if hasattr(batch, "images_NCHW"):
        images = batch.images_NCHW
    elif isinstance(batch, Mapping):
        images = _first(batch, IMAGES)
    elif isinstance(batch, tuple | list) and batch:
        images = batch[0]
    if not isinstance(images, Tensor):
        found = f"{type(batch).__module__}.{type(batch).__qualname__}".removeprefix("builtins.")
        inside = f", which holds {type(images).__name__}" if images is not batch else ""
        raise UserError(
            f"{purpose}: a batch is {found}{inside}; expected a tensor of images, (images, labels), or a "
            f"mapping with {' or '.join(IMAGES[:2])}"
        )
    if images.dtype is torch.uint8:
        raise UserError(
            f"{purpose}: the images are uint8, 0 to 255; normalise them as in training, as floating point"
        )
    return images


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


def _first(mapping: Mapping[Any, Any], keys: Iterable[str]) -> Any:
    return next((mapping[key] for key in keys if key in mapping), None)


def _first_tensor(output: Any) -> Any:
    return output[0] if isinstance(output, tuple | list) and output else None
