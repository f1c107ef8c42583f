"""Images in NumPy files, as CIFAR-10-C has them: NAME.npy of (N, H, W, 3) uint8, and labels.npy of (N,)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional as F

from suite.data.index import ImageIndex
from suite.data.loader import MEAN, STD, Batch, to_device
from suite.data.plan import EvalShare
from suite.data.shifts import LABELS
from suite.errors import UserError
from suite.experiment import DataSpec


def array_index(path: Path, block: int, num_blocks: int) -> ImageIndex:
    """List a block of a file's images by label, then as in the file. An image's name is its row.

    Raises UserError for files that are not as released, and labels that are not whole numbers from 0.
    """
    images_NHWC, labels_N = _array(path), _array(path.parent / LABELS)
    is_images = images_NHWC.ndim == 4 and images_NHWC.shape[3] == 3 and images_NHWC.dtype == np.uint8
    if not is_images:
        raise UserError(
            f"{path}: expected (N, H, W, 3) of uint8, got {images_NHWC.shape} {images_NHWC.dtype}"
        )
    if labels_N.shape != images_NHWC.shape[:1] or labels_N.dtype.kind not in "iu" or labels_N.min() < 0:
        raise UserError(f"{path.parent / LABELS}: expected {len(images_NHWC)} labels, whole numbers from 0")
    if len(labels_N) % num_blocks:
        raise UserError(
            f"{path}: has {len(labels_N)} images, which are not {num_blocks} severities of as many"
        )
    size = len(labels_N) // num_blocks
    chosen_N = np.arange(block * size, (block + 1) * size)
    order_N = chosen_N[np.argsort(labels_N[chosen_N], kind="stable")]
    labels = labels_N[order_N].astype(np.int64)
    classes = tuple(str(label) for label in np.unique(labels))
    return ImageIndex(path, order_N.astype(np.bytes_), labels, classes)


class ArrayLoader:
    """The batches of `share`, whose index is that of `array_index`. See `Loader`."""

    def __init__(self, share: EvalShare[ImageIndex], data: DataSpec, *, device: torch.device) -> None:
        self.bad_images: dict[str, str] = {}  # a file is complete or refused
        self._share, self._size, self._device = share, data.image_size, device
        self._images_NHWC = _array(share.index.folder)

    def __iter__(self) -> Iterator[Batch]:
        index = self._share.index
        for number in range(self._share.num_batches):
            images_B = self._share.batch(number).images_B
            rows_B = index.names_N[images_B].astype(np.int64)
            images_BCHW = torch.from_numpy(self._images_NHWC[rows_B]).permute(0, 3, 1, 2)
            images_BCHW = F.resize(images_BCHW, [self._size, self._size], antialias=True)
            images_BCHW = F.normalize(F.to_dtype(images_BCHW, torch.float32, scale=True), MEAN, STD)
            labels_B = torch.from_numpy(index.labels_N[images_B])
            yield Batch(to_device(images_BCHW, self._device), to_device(labels_B, self._device))

    def close(self) -> None:
        """Nothing to stop."""


def _array(path: Path) -> NDArray[np.generic]:
    try:
        array: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: is missing") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a NumPy array: {error}") from None
    return array
