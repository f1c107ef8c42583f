"""What the segment norm computes, without saying where: its shapes, its activations, and the types it takes.

Shape suffixes: N samples, C channels, H×W pixels; S segments, R rows of a segment, G groups of channels.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from suite.specs.choice import listed


@dataclass(frozen=True)
class Activation:
    """What follows a norm. `cap`: the largest value that it returns; None: there is none."""

    rectifies: bool
    cap: float | None = None


ACTIVATIONS = {
    "identity": Activation(rectifies=False),
    "relu": Activation(rectifies=True),
    "relu6": Activation(rectifies=True, cap=6.0),
}
# The type of all arithmetic and of the statistics, by the type of the input.
STATISTICS = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}


@dataclass(frozen=True)
class Segments:
    """Channels-last memory as `num` segments of `rows` rows of `channels` channels in `groups` groups.

    A unit, which has one mean and one variance, is a group of channels in a segment.
    """

    num: int
    rows: int
    channels: int
    groups: int

    @classmethod
    def of(cls, x: Tensor, samples: int, groups: int) -> "Segments":
        """Divide x, (N, C) or (N, C, H, W), into segments of so many samples. Raises ValueError."""
        if x.dim() not in (2, 4) or x.dtype not in STATISTICS or x.numel() == 0:
            types = listed((str(dtype).removeprefix("torch.") for dtype in STATISTICS), "or")
            got = f"{tuple(x.shape)} of {str(x.dtype).removeprefix('torch.')}"
            raise ValueError(f"segment norm: expected (N, C) or (N, C, H, W) of {types}, got {got}")
        num_samples, channels = x.shape[:2]
        if num_samples % samples:
            raise ValueError(f"segment norm: segments of {samples} samples do not divide {num_samples}")
        if channels % groups:
            raise ValueError(f"segment norm: {groups} groups do not divide {channels} channels")
        return cls(num_samples // samples, samples * math.prod(x.shape[2:]), channels, groups)

    @property
    def group_channels(self) -> int:
        return self.channels // self.groups

    @property
    def values_per_unit(self) -> int:
        return self.rows * self.group_channels


@dataclass(frozen=True)
class Rule:
    """How units are normalised: the ε beside their variance, and the activation behind. It is hashable."""

    eps: float = 1e-5
    activation: str = "identity"

    @property
    def rectifies(self) -> bool:
        return ACTIVATIONS[self.activation].rectifies

    @property
    def cap(self) -> float | None:
        return ACTIVATIONS[self.activation].cap


@dataclass(frozen=True)
class Gradients:
    """Of the input, of the residual (None without one), and of weight and bias, each (C,) in float."""

    x: Tensor
    residual: Tensor | None
    weight_C: Tensor
    bias_C: Tensor


def is_channels_last(x: Tensor) -> bool:
    """Return whether x, (N, C) or (N, C, H, W), lies in memory as rows of channels without gaps."""
    layout = torch.channels_last if x.dim() == 4 else torch.contiguous_format
    return x.is_contiguous(memory_format=layout)


def as_channels_last(x: Tensor) -> Tensor:
    """Return x as rows of channels in memory: x itself, or a copy."""
    return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.contiguous_format)
