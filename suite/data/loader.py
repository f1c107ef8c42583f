"""What all loaders share: their interface, the batches, and the handling of files that cannot be decoded."""

import os
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar

from suite.data.index import ImageFiles
from suite.errors import UserError
from suite.provenance import container_image
from suite.specs.choice import resolve
from suite.specs.loader_table import LOADERS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# ImageNet's channel means and standard deviations, of images in [0, 1]; used for every data set.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# More unreadable files in a row than this mean that a mount is gone, not that files are bad.
MAX_BAD_IN_A_ROW = 1000
# The only fault after which a part of the image may still be decoded.
BROKEN_JPEG = "truncated or broken JPEG"


@dataclass(frozen=True)
class Batch:
    """A batch on the loader's device: `images_NCHW` float32 and normalised, `labels_N` int64.

    Images have three channels; the memory loader leaves out those that the network does not read.
    """

    images_NCHW: "Tensor"
    labels_N: "Tensor"


class Place(TypedDict):
    """A rank among those that share the images, and the device of its batches."""

    rank: int
    world_size: int
    device: "torch.device"


BatchT_co = TypeVar("BatchT_co", covariant=True)


class BatchLoader(Protocol[BatchT_co]):
    """Yields the same batches on every iteration.

    `bad_images` grows while iterating: the path of each file that could not be decoded, and why. In
    training the next good image of the index replaces it; in evaluation it is left out. Iterating raises
    UserError if no image can be decoded.
    """

    bad_images: dict[str, str]

    def __iter__(self) -> Iterator[BatchT_co]: ...

    def close(self) -> None:
        """Stop threads and worker processes. The loader cannot be used afterwards."""


Loader = BatchLoader[Batch]


def loader_class(name: str, reference: str) -> Any:
    """Import a loader's class, "module:attribute". Raises UserError where its package is not installed."""
    try:
        return resolve(reference)
    except ImportError as error:
        if (error.name or "").startswith("suite"):
            raise  # a fault of ours
        install = LOADERS[name].install
        image = container_image(os.environ)
        where = f" in the image {image}" if image else ""
        raise UserError(f"the loader {name} cannot be imported{where} ({error}): {install}") from None


def to_device(tensor: "Tensor", device: "torch.device") -> "Tensor":
    """Copy from the CPU without blocking the host."""
    if device.type != "cuda":
        return tensor.to(device)
    # From pageable memory the copy would wait for everything queued on the GPU before it.
    return tensor.pin_memory().to(device, non_blocking=True)


def good_image(index: ImageFiles, image: int, fault: Callable[[int], str | None]) -> int:
    """Return the first image from `image` on, cyclically, in which `fault` finds nothing.

    Raises UserError if there is none.
    """
    for tried in range(min(len(index), MAX_BAD_IN_A_ROW)):
        candidate = (image + tried) % len(index)
        reason = fault(candidate)
        if reason is None:
            return candidate
    number = f"all {len(index)}" if tried + 1 == len(index) else f"{tried + 1} in a row of the {len(index)}"
    last = f"{index.path(candidate)}: {reason}"
    raise UserError(f"{index.folder}: {number} images cannot be decoded; the last: {last}")


def decoding_fault(files: ImageFiles, image: int, complaint: str) -> str:
    """Return in one line why a file could not be decoded: decoders do not say whether it even exists.

    It ends with the essence of the decoder's own `complaint`, unless the file is unreadable or empty. Raises
    UserError for an image of a pack whose bytes are not those that were packed.
    """
    try:
        start = bytes(files.read(image, checked=True)[:2])
    except OSError as os_error:
        return f"cannot be read: {os_error.strerror}"
    if not start:
        return "empty file"
    kind = {b"\xff\xd8": BROKEN_JPEG, b"\x89P": "broken PNG"}.get(start, "not an image")
    return f"{kind} ({_essence(complaint)})"


def _essence(complaint: str) -> str:
    """Return a decoder's message as one short line, without traceback and C++ location."""
    message = complaint.rpartition("encountered:")[2].strip()
    line = re.sub(r"^.*\.cpp:\d+, ", "", message.partition("\n")[0]).rstrip(" :")
    return textwrap.shorten(line, 100, placeholder=" …")
