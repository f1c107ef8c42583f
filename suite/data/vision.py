"""The loader on torchvision, for machines without DALI and as a reference for DALI's batches.

Worker processes decode whole files and apply torchvision's v2 functions, one batch at a time.
"""

import io
import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Generic, TypeVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from suite.data.crops import CropDraws, geometry
from suite.data.index import ImageFiles, ImageIndex
from suite.data.loader import MEAN, STD, Batch, decoding_fault, good_image, to_device
from suite.data.packed import Bytes
from suite.data.plan import Samples, Share
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
Content = TypeVar("Content")
BatchT = TypeVar("BatchT")
# What a batch is made of, None if no image is left, and the bad files found.
WorkerBatch = tuple[Content | None, dict[str, str]]
# Changes an image (3, H, W), uint8, before it is normalised; the name is its file's, relative to the split.
Alter = Callable[[Tensor, str], Tensor]


class WorkerLoader(ABC, Generic[Content, BatchT]):
    """The batches of `share`, which worker processes make. See `BatchLoader`.

    `batches`: the content of each by its number. `needed_bytes`: of shared memory, for those that are held.
    Iterating raises UserError when the shared memory is too small for the workers' batches, and RuntimeError
    when they give none for `timeout_s`, or one of them ends.
    """

    def __init__(
        self,
        share: Share[ImageFiles],
        batches: Dataset[WorkerBatch[Content]],
        *,
        needed_bytes: int,
        num_workers: int,
        timeout_s: float,
        device: torch.device,
    ) -> None:
        self.bad_images: dict[str, str] = {}
        self._files = share
        self._batches = batches
        self._num_workers = num_workers
        self._timeout_s = timeout_s
        self._device = device
        self._needed_bytes = needed_bytes

    @abstractmethod
    def _batch(self, content: Content) -> BatchT:
        """Return the batch on the loader's device."""

    def _fault(self, image: int) -> str | None:
        """Return why an image cannot be decoded, or None."""
        result = decode(self._files.index, image)
        return result if isinstance(result, str) else None

    def __iter__(self) -> Iterator[BatchT]:
        share, workers = self._files, Workers()
        if shortage := shared_memory_shortage(self._needed_bytes):
            raise UserError(shortage)
        loader = DataLoader(
            self._batches,
            batch_size=None,
            collate_fn=_as_it_is,  # by default a worker makes tensors of arrays
            sampler=itertools.count() if share.num_batches is None else range(share.num_batches),
            num_workers=self._num_workers,
            prefetch_factor=PREFETCHED_BATCHES,
            multiprocessing_context=workers,
            pin_memory=self._device.type == "cuda",  # by a thread, ahead of time
            generator=torch.Generator(),  # for the workers' seeds, which would change what the step draws
        )
        found_good = False
        batches = cast(Iterator[WorkerBatch[Content]], iter(loader))
        # DataLoader's own time-out does not count the time in which a tensor is received.
        with WaitTimer(self._timeout_s, workers.kill) as timer:
            while (batch := self._next(batches, timer, workers)) is not None:
                content, bad = batch
                self.bad_images |= bad
                if content is not None:
                    found_good = True
                    yield self._batch(content)
        if share.num_batches and not found_good:
            good_image(share.index, 0, self._fault)

    def _next(
        self, batches: Iterator[WorkerBatch[Content]], timer: WaitTimer, workers: Workers
    ) -> WorkerBatch[Content] | None:
        """Return the next batch, or None after the last one. Says why when the workers give none."""
        try:
            with timer.waiting():
                return next(batches, None)
        except UserError as error:  # torch puts the worker's traceback in front of the sentence
            raise UserError(str(error).strip().rpartition("UserError: ")[2]) from None
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


def _as_it_is(batch: Content) -> Content:
    return batch


class VisionLoader(WorkerLoader[tuple[Tensor, Tensor], Batch]):
    """The batches of `share`, of images in classes. `num_workers` processes decode, and apply `alter`."""

    def __init__(
        self,
        share: Share[ImageIndex],
        data: DataSpec,
        *,
        num_workers: int,
        timeout_s: float,
        device: torch.device,
        alter: Alter | None = None,
    ) -> None:
        needed = shared_memory_needed(share.images_per_batch, data.image_size, num_workers, share.num_batches)
        super().__init__(
            share,
            PlannedBatches(share, data, alter),
            needed_bytes=needed,
            num_workers=num_workers,
            timeout_s=timeout_s,
            device=device,
        )

    def _batch(self, content: tuple[Tensor, Tensor]) -> Batch:
        images_NCHW, labels_N = content
        return Batch(to_device(images_NCHW, self._device), to_device(labels_N, self._device))


class PlannedBatches(Dataset[WorkerBatch[tuple[Tensor, Tensor]]]):
    """A share's batches by number, decoded and cropped by the workers."""

    def __init__(self, share: Share[ImageIndex], data: DataSpec, alter: Alter | None = None) -> None:
        self.share = share
        self._data = data
        self._alter = alter

    def __getitem__(self, number: int) -> WorkerBatch[tuple[Tensor, Tensor]]:
        samples, index = self.share.batch(number), self.share.index
        found, bad = decoded_images(samples, index, partial(decode, index))
        if not found:
            return None, bad
        crops = [None if samples.crops is None else samples.crops[j : j + 1] for j, _, _ in found]
        images = [
            self._crop(pixels, crop, image) for (_, image, pixels), crop in zip(found, crops, strict=True)
        ]
        labels_N = torch.from_numpy(index.labels_N[[image for _, image, _ in found]])
        return (torch.stack(images), labels_N), bad

    def _crop(self, image_CHW: Tensor, crop: CropDraws | None, image: int) -> Tensor:
        shape_12 = np.array([image_CHW.shape[1:]], dtype=np.int32)
        place = geometry(shape_12, None if crop is None else crop.attempts_B4A, self._data)
        image_CHW = F.crop(image_CHW, *place.window_start_B2[0].tolist(), *place.window_shape_B2[0].tolist())
        mode = InterpolationMode(self._data.interpolation)
        image_CHW = F.resize(image_CHW, place.resized_B2[0].tolist(), mode, antialias=True)
        size = self._data.image_size
        image_CHW = F.crop(image_CHW, *place.offset_B2[0].tolist(), size, size)
        if crop is not None and crop.mirror_B[0]:
            image_CHW = F.horizontal_flip(image_CHW)
        if self._alter is not None:
            _, _, name = os.fsdecode(bytes(self.share.index.names_N[image])).partition("/")
            image_CHW = self._alter(image_CHW, name)
        image_CHW = F.to_dtype(image_CHW, torch.float32, scale=True)
        return cast(Tensor, F.normalize(image_CHW, MEAN, STD))


def decoded_images(
    samples: Samples, index: ImageFiles, decode_one: Callable[[int], Tensor | str]
) -> tuple[list[tuple[int, int, Tensor]], dict[str, str]]:
    """Return the images of a batch (its position, the image, its pixels), and the bad files met.

    `decode_one` returns an image's pixels, or why it has none. With random crops, in training, the next good
    image replaces a bad one; otherwise it is left out.
    """
    bad, decoded = dict[str, str](), dict[int, Tensor]()

    def fault(image: int) -> str | None:
        result = decode_one(image)
        if isinstance(result, str):
            bad[index.path(image)] = result
            return result
        decoded[image] = result
        return None

    found = list[tuple[int, int, Tensor]]()
    for j, image in enumerate(samples.images_B.tolist()):
        if samples.crops is not None:
            image = good_image(index, image, fault)
        elif fault(image) is not None:
            continue
        found.append((j, image, decoded.pop(image)))
    return found, bad


def decode(files: ImageFiles, image: int) -> Tensor | str:
    """Return an image in RGB, uint8, CHW; or why it cannot be decoded."""
    try:
        return decode_bytes(files.read(image))
    except (RuntimeError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return decoding_fault(files, image, str(error))


def decode_bytes(encoded: Bytes) -> Tensor:
    """Return the image of a file's content in RGB, uint8, CHW. Raises as torchvision and Pillow do.

    What is an image is decided by its first bytes, as DALI does, and not by its name.
    """
    start = bytes(encoded[:12])
    if start.startswith((b"\xff\xd8", b"\x89P")):
        return cast(Tensor, decode_image(torch.from_numpy(encoded), mode=ImageReadMode.RGB))
    if start.startswith(OTHER_IMAGES) or (start[:4], start[8:]) == (b"RIFF", b"WEBP"):
        with Image.open(io.BytesIO(encoded.data)) as image:
            return cast(Tensor, F.pil_to_tensor(image.convert("RGB")))
    raise ValueError("its first bytes are not those of JPEG, PNG, BMP, TIFF, PNM or WebP")
