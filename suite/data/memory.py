"""The loader for small grey images: it holds a split's IDX file in memory, and decodes and crops nothing.

Images can be made smaller by a whole factor, once, when they are read: each pixel is the mean of a square.
"""

import functools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from suite.data.idx import read_array, read_shape
from suite.data.index import ImageIndex
from suite.data.loader import MEAN, STD, Batch, to_device
from suite.data.plan import Share
from suite.errors import UserError
from suite.experiment import DataSpec

MEMINFO = Path("/proc/meminfo")


class MemoryLoader:
    """The batches of `share`, bit-equal to the torchvision loader's on the same pixels. See `Loader`.

    `num_channels`: 1 leaves out the second and third channel, which are the first one normalised differently.
    The share's index is that of `scan_idx`. Raises UserError for a file whose images do not match the labels,
    whose side is no multiple of `data.image_size`, or that does not fit into the device's memory.
    """

    def __init__(
        self, share: Share[ImageIndex], data: DataSpec, *, num_channels: int, device: torch.device
    ) -> None:
        self.bad_images: dict[str, str] = {}  # an IDX file is complete or refused
        self._share = share
        self._num_channels = num_channels
        self._device = device
        self._pixels_NHW = _pixels(share.index.folder, device, data.image_size)
        # The position in the file of each image of the index.
        self._numbers_N = share.index.names_N.astype(np.int64)
        count = len(self._pixels_NHW)
        if self._numbers_N.max() >= count:
            raise UserError(f"{share.index.folder}: has {count} images, fewer than there are labels")

    def __iter__(self) -> Iterator[Batch]:
        number = 0
        while self._share.num_batches is None or number < self._share.num_batches:
            yield self._batch(self._share.batch(number).images_B)
            number += 1

    def _batch(self, images_B: NDArray[np.int64]) -> Batch:
        numbers_B, labels_B = (
            to_device(torch.from_numpy(values_N[images_B]), self._device)
            for values_N in (self._numbers_N, self._share.index.labels_N)
        )
        grey_B1HW = self._pixels_NHW[numbers_B][:, None]
        images_BCHW = grey_B1HW.expand(-1, self._num_channels, -1, -1)
        images_BCHW = F.to_dtype(images_BCHW, torch.float32, scale=True)
        mean, std = MEAN[: self._num_channels], STD[: self._num_channels]
        return Batch(F.normalize(images_BCHW, mean, std, inplace=True), labels_B)

    def close(self) -> None:
        """Nothing to stop."""


@functools.lru_cache(maxsize=4)
def _pixels(path: Path, device: torch.device, side: int) -> Tensor:
    """Return (N, side, side) uint8 on the device. Cached until the process ends."""
    _, height, width = read_shape(path)
    if height != width or height % side:
        raise UserError(
            f"{path}: has images of {height} × {width}, but data.image_size is {side}: loader memory makes "
            "images smaller by whole factors only"
        )
    num_bytes, free_bytes = math.prod(read_shape(path)), _free_bytes(device)
    if free_bytes is not None and num_bytes > free_bytes:
        raise UserError(
            f"{path}: its images take {num_bytes / 2**30:.1f} GiB, but {free_bytes / 2**30:.1f} GiB "
            f"of memory are free on {device}; the other loaders read images as they need them"
        )
    pixels_NHW = torch.from_numpy(read_array(path).copy())
    if side < height:
        factor = height // side
        squares_NHWF = pixels_NHW.view(-1, side, factor, side, factor).transpose(2, 3).flatten(3)
        pixels_NHW = squares_NHWF.float().mean(dim=3).round().byte()
    return pixels_NHW.to(device)


def _free_bytes(device: torch.device) -> int | None:
    """Return how many bytes can be allocated there; None if the system does not report it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if not MEMINFO.is_file():
        return None
    lines = (line.split() for line in MEMINFO.read_text().splitlines())
    return next((1024 * int(words[1]) for words in lines if words[0] == "MemAvailable:"), None)
