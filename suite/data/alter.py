"""Corrupts the images of a loader, in its worker processes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from suite.data.corruptions import corrupted


@dataclass(frozen=True)
class Alter:
    """Corrupts an image on its way to the network, after resizing and cropping, as ImageNet-C was made."""

    corruption: str
    severity: int

    def __call__(self, image_CHW: Tensor, name: str) -> Tensor:
        """Return the corrupted image, uint8. `name`: of its file, relative to the folder of its split."""
        image_HWC = image_CHW.permute(1, 2, 0).contiguous().numpy()
        return torch.from_numpy(corrupted(image_HWC, self.corruption, self.severity, name)).permute(2, 0, 1)
