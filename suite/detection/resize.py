"""The size that images of detection get, and the memory that this takes. No torch."""

from dataclasses import dataclass

MASKS_PER_IMAGE = 20
"""For the estimate of memory; COCO has seven boxes an image."""


@dataclass(frozen=True)
class Resize:
    """torchvision's rule: the shorter side becomes `min_size`, unless the longer one exceeds `max_size` then.

    In whole numbers, so that torchvision's own transform leaves the result as it is. `with_masks`: targets
    have masks, too.
    """

    min_size: int
    max_size: int
    with_masks: bool = False

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width after resizing."""
        short, long = sorted((height, width))
        if self.min_size * long <= self.max_size * short:
            sizes = self.min_size, self.min_size * long // short
        else:
            sizes = max(1, self.max_size * short // long), self.max_size
        return sizes if height <= width else sizes[::-1]

    @property
    def bytes_per_image(self) -> int:
        """Return how many bytes an image of uint8 with its target takes at most, about."""
        layers = 3 + (MASKS_PER_IMAGE if self.with_masks else 0)
        return layers * self.min_size * self.max_size
