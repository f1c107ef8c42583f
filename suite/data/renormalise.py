"""Another normalisation than ImageNet's, for networks that were trained with one of their own."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from suite.data.loader import MEAN, STD, Batch, Loader


class Renormalised:
    """A loader whose images are normalised with a mean and standard deviation of the network's own.

    `mean`, `std`: one for each channel, of images in [0, 1]. `bad_images` and `close` are the loader's.
    """

    def __init__(self, loader: Loader, mean: Sequence[float], std: Sequence[float]) -> None:
        self._loader, self.bad_images = loader, loader.bad_images  # one dictionary, which grows
        scale = [former / own for former, own in zip(STD, std, strict=True)]
        shift = [(former - own) / s for former, own, s in zip(MEAN, mean, std, strict=True)]
        self._scale_C, self._shift_C = torch.tensor(scale), torch.tensor(shift)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            images = batch.images_NCHW
            channels = images.shape[1]
            scale, shift = (
                constant_C[:channels].to(images.device, images.dtype).view(1, -1, 1, 1)
                for constant_C in (self._scale_C, self._shift_C)
            )
            yield replace(batch, images_NCHW=images * scale + shift)

    def close(self) -> None:
        self._loader.close()
