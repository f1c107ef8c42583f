"""Batches that already lie on the device, to measure training without the cost of data."""

from collections.abc import Iterator

import torch

from suite.data.loader import Batch
from suite.experiment import DataSpec

# Enough that no two steps in a row see the same images, few enough to fit beside a model.
RESIDENT_BATCHES = 4


class SyntheticLoader:
    """Cycles through `RESIDENT_BATCHES` batches of normal noise with random labels, from number `first` on.

    The tensors are reused and must not be written to. The iteration ends after `num_images`; None: never.
    """

    def __init__(
        self,
        data: DataSpec,
        *,
        seed: int,
        images_per_batch: int,
        device: torch.device,
        num_images: int | None = None,
        first: int = 0,
    ) -> None:
        self.bad_images: dict[str, str] = {}
        self._images_per_batch = images_per_batch
        self._num_images = num_images
        self._first = first
        generator = torch.Generator(device=device).manual_seed(seed)
        shape = (RESIDENT_BATCHES, images_per_batch, 3, data.image_size, data.image_size)
        assert data.num_classes is not None
        self._images_KNCHW = torch.randn(shape, generator=generator, device=device)
        self._labels_KN = torch.randint(data.num_classes, shape[:2], generator=generator, device=device)

    def __iter__(self) -> Iterator[Batch]:
        number, left = self._first, self._num_images
        while left is None or left > 0:
            count = self._images_per_batch if left is None else min(left, self._images_per_batch)
            resident = number % RESIDENT_BATCHES
            yield Batch(self._images_KNCHW[resident, :count], self._labels_KN[resident, :count])
            number += 1
            left = None if left is None else left - count

    def close(self) -> None:
        pass
