"""How images become the input of a network that is measured: normalisation, size, crop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from suite.data.loader import MEAN, STD
from suite.errors import UserError


@dataclass(frozen=True)
class Preprocessing:
    """Mean and standard deviation by channel, of images in [0, 1]; `source` says whose they are.

    `image_size` (pixels) and `resize` (the shorter side, before the central crop, as a multiple of it) are
    None where the network does not state them. `interpolation` is the network's; ours is bilinear.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    image_size: int | None = None
    resize: float | None = None
    interpolation: str | None = None

    @property
    def is_imagenets(self) -> bool:
        """Whether the loaders normalise like that by themselves."""
        return (self.mean, self.std) == (MEAN, STD)

    def describe(self, image_size: int) -> str:
        """Return a sentence on what the network's input was."""
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        other = self.interpolation not in (None, "bilinear")
        note = f"; the network states {self.interpolation} interpolation, ours is bilinear" if other else ""
        return f"images of {image_size} pixels, mean ({mean}), std ({std}), {self.source}{note}"


def preprocessing_of(
    network: Any, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Preprocessing:
    """Return what the options say, else what a timm network states in its `pretrained_cfg`, else ImageNet's.

    Raises UserError for a standard deviation that is not positive.
    """
    stated = getattr(network, "pretrained_cfg", None) or {}
    stated = stated if isinstance(stated, dict) else vars(stated)
    if std is not None and min(std) <= 0:
        raise UserError(f"--std: expected positive numbers, got {', '.join(map(str, std))}")
    chosen = (mean or stated.get("mean") or MEAN, std or stated.get("std") or STD)
    means, stds = (tuple(map(float, values)) for values in chosen)
    source = "as the network states" if stated.get("mean") else "ImageNet's"
    if mean is not None or std is not None:
        source = "as the options say"
    size, crop = stated.get("input_size"), stated.get("crop_pct")
    return Preprocessing(
        means,
        stds,
        source,
        int(size[-1]) if size else None,
        1 / float(crop) if crop else None,
        stated.get("interpolation"),
    )
