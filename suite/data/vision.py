"""The loader on torchvision, for machines without DALI and as a reference for DALI's batches.

Worker processes decode whole files and apply torchvision's v2 functions, one batch at a time.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as F

from suite.data.crops import CropDraws, geometry
from suite.data.loader import MEAN, STD, Batch, decoding_fault, good_image, to_device
from suite.data.plan import Share
from suite.data.watch import WaitTimer
from suite.data.workers import (
    PREFETCHED_BATCHES,
    Workers,
    shared_memory_needed,
    shared_memory_shortage,
)
from suite.errors import UserError
from suite.experiment import DataSpec

# The first bytes of BMP, TIFF and PNM, which torchvision does not decode and Pillow does.
OTHER_IMAGES = (b"BM", b"II*\0", b"MM\0*", b"P2", b"P3", b"P5", b"P6")
# Images, labels, and the bad files found.
WorkerBatch = tuple[Tensor, Tensor, dict[str, str]]
# Changes an image (3, H, W), uint8, before it is normalised; the name is its file's, relative to the split.
Alter = Callable[[Tensor, str], Tensor]


class VisionLoader:
    """The batches of `share`. See `Loader`. `num_workers` processes decode, and apply `alter` to the crops.

    Iterating raises UserError when the shared memory is too small for the workers' batches, and RuntimeError
    when they give none for `timeout_s`, or one of them ends.
    """

    def __init__(
        self,
        share: Share,
        data: DataSpec,
        *,
        num_workers: int,
        timeout_s: float,
        device: torch.device,
        alter: Alter | None = None,
    ) -> None:
        self.bad_images: dict[str, str] = {}
        self._batches = PlannedBatches(share, data, alter)
        self._num_workers = num_workers
        self._timeout_s = timeout_s
        self._device = device
        self._needed_bytes = shared_memory_needed(
            share.images_per_batch, data.image_size, num_workers, share.num_batches
        )

    def __iter__(self) -> Iterator[Batch]:
        share, workers = self._batches.share, Workers()
        if shortage := shared_memory_shortage(self._needed_bytes):
            raise UserError(shortage)
        loader = DataLoader(
            self._batches,
            batch_size=None,
            sampler=itertools.count() if share.num_batches is None else range(share.num_batches),
            num_workers=self._num_workers,
            prefetch_factor=PREFETCHED_BATCHES,
            multiprocessing_context=workers,
            pin_memory=self._device.type == "cuda",  # by a thread, ahead of time
        )
        found_good = 0
        batches = cast(Iterator[WorkerBatch], iter(loader))
        # DataLoader's own time-out does not count the time in which a tensor is received.
        with WaitTimer(self._timeout_s, workers.kill) as timer:
            while (batch := self._next(batches, timer, workers)) is not None:
                images_NCHW, labels_N, bad = batch
                self.bad_images |= bad
                found_good += len(images_NCHW)
                if len(images_NCHW):
                    yield Batch(to_device(images_NCHW, self._device), to_device(labels_N, self._device))
        if share.num_batches and not found_good:
            good_image(share.index, 0, lambda image: _fault(share.index.path(image)))

    def _next(self, batches: Iterator[WorkerBatch], timer: WaitTimer, workers: Workers) -> WorkerBatch | None:
        """Return the next batch, or None after the last one. Says why when the workers give none."""
        try:
            with timer.waiting():
                return next(batches, None)
        except Exception as error:
            if not timer.is_over:
                raise
            workers.join_killed()
            shortage = shared_memory_shortage(self._needed_bytes)
            why = shortage or "one of them was stopped, or waited for the file system"
            raise RuntimeError(
                f"the loader's {self._num_workers} worker processes gave no batch for {self._timeout_s:g} s "
                f"(system.collective_timeout_s): {why}"
            ) from error

    def close(self) -> None:
        """Do nothing: the workers end with the iteration."""


class PlannedBatches(Dataset[WorkerBatch]):
    """A share's batches by number, decoded and cropped by the workers."""

    def __init__(self, share: Share, data: DataSpec, alter: Alter | None = None) -> None:
        self.share = share
        self._data = data
        self._alter = alter

    def __getitem__(self, number: int) -> WorkerBatch:
        samples = self.share.batch(number)
        index = self.share.index
        images, labels = list[Tensor](), list[int]()
        bad, decoded = dict[str, str](), dict[int, Tensor]()

        def fault(image: int) -> str | None:
            result = decode(index.path(image))
            if isinstance(result, str):
                bad[index.path(image)] = result
                return result
            decoded[image] = result
            return None

        for j, image in enumerate(samples.images_B.tolist()):
            if samples.crops is not None:
                image = good_image(index, image, fault)
            elif fault(image) is not None:
                continue
            crop = None if samples.crops is None else samples.crops[j : j + 1]
            images.append(self._crop(decoded.pop(image), crop, image))
            labels.append(int(index.labels_N[image]))
        size = self._data.image_size
        images_NCHW = torch.stack(images) if images else torch.empty(0, 3, size, size)
        return images_NCHW, torch.tensor(labels, dtype=torch.int64), bad

    def _crop(self, image_CHW: Tensor, crop: CropDraws | None, image: int) -> Tensor:
        shape_12 = np.array([image_CHW.shape[1:]], dtype=np.int32)
        place = geometry(shape_12, None if crop is None else crop.attempts_B4A, self._data)
        image_CHW = F.crop(image_CHW, *place.window_start_B2[0].tolist(), *place.window_shape_B2[0].tolist())
        image_CHW = F.resize(image_CHW, place.resized_B2[0].tolist(), antialias=True)
        size = self._data.image_size
        image_CHW = F.crop(image_CHW, *place.offset_B2[0].tolist(), size, size)
        if crop is not None and crop.mirror_B[0]:
            image_CHW = F.horizontal_flip(image_CHW)
        if self._alter is not None:
            _, _, name = os.fsdecode(bytes(self.share.index.names_N[image])).partition("/")
            image_CHW = self._alter(image_CHW, name)
        image_CHW = F.to_dtype(image_CHW, torch.float32, scale=True)
        return cast(Tensor, F.normalize(image_CHW, MEAN, STD))


def decode(path: str) -> Tensor | str:
    """Return the image in RGB, uint8, CHW; or why it cannot be decoded.

    What is an image is decided by its first bytes, as DALI does, and not by its name.
    """
    try:
        encoded = torch.from_numpy(np.fromfile(path, dtype=np.uint8))
        start = bytes(encoded[:12].numpy())
        if start.startswith((b"\xff\xd8", b"\x89P")):
            return cast(Tensor, decode_image(encoded, mode=ImageReadMode.RGB))
        if start.startswith(OTHER_IMAGES) or (start[:4], start[8:]) == (b"RIFF", b"WEBP"):
            with Image.open(path) as image:
                return cast(Tensor, F.pil_to_tensor(image.convert("RGB")))
        return decoding_fault(path, "its first bytes are not those of JPEG, PNG, BMP, TIFF, PNM or WebP")
    except (RuntimeError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return decoding_fault(path, str(error))


def _fault(path: str) -> str | None:
    result = decode(path)
    return result if isinstance(result, str) else None
