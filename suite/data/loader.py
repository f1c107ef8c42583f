"""What a loader gives: batches on the device, and the names of the files that it could not read."""

import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from suite.data.index import ImageIndex
from suite.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# ImageNet's channel means and standard deviations, of images in [0, 1]; used for every data set.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# More unreadable files in a row than this are no bad files, but a mount that went away.
MAX_BAD_IN_A_ROW = 1000
# The one fault that may spare a part of the image.
BROKEN_JPEG = "truncated or broken JPEG"


@dataclass(frozen=True)
class Batch:
    """Both on the loader's device: `images_NCHW` float32 and normalised, `labels_N` int64.

    Three channels; the memory loader leaves out those that the network does not read.
    """

    images_NCHW: "Tensor"
    labels_N: "Tensor"


class Loader(Protocol):
    """Batches, the same each time that it is iterated.

    `bad_images` grows while iterating: the path of each file that could not be decoded, and why. In
    training the next good image of the index stands in; in evaluation it is left out. Iterating raises
    UserError when no image is good.
    """

    bad_images: dict[str, str]

    def __iter__(self) -> Iterator[Batch]: ...

    def close(self) -> None:
        """Stop threads and worker processes. The loader is of no use afterwards."""


def to_device(tensor: "Tensor", device: "torch.device") -> "Tensor":
    """Copy from the CPU without making the host wait for a GPU."""
    if device.type != "cuda":
        return tensor.to(device)
    # From pageable memory the copy would wait until the GPU has done all that was queued before it.
    return tensor.pin_memory().to(device, non_blocking=True)


def good_image(index: ImageIndex, image: int, fault: Callable[[int], str | None]) -> int:
    """The first image from `image` on (and round to the start) in which `fault` finds nothing.

    Raises UserError if there is none.
    """
    for tried in range(min(len(index), MAX_BAD_IN_A_ROW)):
        candidate = (image + tried) % len(index)
        reason = fault(candidate)
        if reason is None:
            return candidate
    number = f"all {len(index)}" if tried + 1 == len(index) else f"{tried + 1} in a row of the {len(index)}"
    raise UserError(
        f"{index.folder}: {number} images cannot be decoded; the last: {index.path(candidate)}: {reason}"
    )


def decoding_fault(path: str, complaint: str) -> str:
    """Why a file could not be decoded, for people: decoders do not say whether it is even there.

    One line that ends with the essence of the decoder's own complaint, where it can tell more.
    """
    try:
        with Path(path).open("rb") as file:
            start = file.read(2)
    except OSError as os_error:
        return f"cannot be read: {os_error.strerror}"
    if not start:
        return "empty file"
    kind = {b"\xff\xd8": BROKEN_JPEG, b"\x89P": "broken PNG"}.get(start, "not an image")
    return f"{kind} ({_essence(complaint)})"


def _essence(complaint: str) -> str:
    """One short line of what a decoder says: without DALI's traceback and torchvision's place in C++."""
    message = complaint.rpartition("encountered:")[2].strip()
    line = re.sub(r"^.*\.cpp:\d+, ", "", message.partition("\n")[0]).rstrip(" :")
    return textwrap.shorten(line, 100, placeholder=" …")
