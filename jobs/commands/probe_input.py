"""How images become the input of a network that is measured: normalisation, size, crop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from suite.data.loader import MEAN, STD
from suite.errors import UserError
from suite.experiment import DataSpec
from suite.specs.loader_table import INTERPOLATIONS


@dataclass(frozen=True)
class Preprocessing:
    """Mean and standard deviation by channel, of images in [0, 1]; `source` says whose they are.

    What the network states of resizing, None where it does not: `image_size` (pixels), `crop_share` (that as
    a share of the shorter side, before the crop), `interpolation`, and `crop`, the kind of it.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    image_size: int | None = None
    crop_share: float | None = None
    interpolation: str | None = None
    crop: str | None = None

    @property
    def is_imagenets(self) -> bool:
        """Whether the loaders normalise like that by themselves."""
        return (self.mean, self.std) == (MEAN, STD)

    @property
    def usable_interpolation(self) -> str | None:
        """The network's interpolation, if the loaders have it."""
        return self.interpolation if self.interpolation in INTERPOLATIONS else None

    def describe(self, data: DataSpec) -> str:
        """Return a sentence on what the network's input was."""
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        size = f"images of {data.image_size} pixels out of {data.eval_resize}, {data.interpolation}"
        others = {"interpolation": (self.interpolation, data.interpolation), "crop": (self.crop, "center")}
        notes = [
            f"; the network states {stated} {what}, ours is {ours}"
            for what, (stated, ours) in others.items()
            if stated not in (None, ours)
        ]
        return f"{size}, mean ({mean}), std ({std}), {self.source}{''.join(notes)}"


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
        float(crop) if crop else None,
        stated.get("interpolation"),
        stated.get("crop_mode"),
    )
