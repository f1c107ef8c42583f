"""The batch-free norms (BFN) of `suite.specs.norm_table`, which look at one sample at a time.

Shape suffixes: N samples, C channels, H×W pixels, G groups, M = (C/G)·H·W elements of a group.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from suite.models.norms.group_norm import GroupNorm
from suite.specs.choice import resolve
from suite.specs.norm_table import BATCH_FREE_NORMS


class Norm(nn.Module):
    """Base of the norms that torch does not have, by which they are recognised."""


NORM_MODULES = (Norm, _NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)


def batch_free_norm(
    bfn: str, num_channels: int, num_groups: int | None, affine: bool = True, activate: bool = False
) -> nn.Module:
    """Return a new BFN for `num_channels` channels, which may have a scale and a shift if `affine`.

    `activate`: it takes the place of the activation behind it, if it is a norm that `activates`. Groups are
    clipped to the channels, as released. Raises KeyError for an unknown BFN, ValueError for (clipped) groups
    that do not divide the channels, with those that do, and TypeError for an entry of the table whose
    constructor returns no norm.
    """
    entry = BATCH_FREE_NORMS[bfn]
    sizes = [num_channels]
    if entry.takes_groups:
        if num_groups is None:
            raise ValueError(f"{bfn} needs num_groups")
        groups = min(num_groups, num_channels)
        if num_channels % groups:
            valid = [g for g in range(1, num_channels + 1) if num_channels % g == 0]
            raise ValueError(f"num_groups {groups} does not divide {num_channels} channels; valid: {valid}")
        sizes = [groups, num_channels]
    options = {"activate": activate} if entry.activates else {}
    norm: nn.Module = resolve(entry.constructor)(*sizes, affine=affine, **options)
    if not isinstance(norm, NORM_MODULES):
        made = f"{entry.constructor} returns {type(norm).__name__}"
        raise TypeError(f"{made}, which would be decayed as a layer: derive it from {Norm.__module__}.Norm")
    return norm


def layer_norm(num_channels: int, affine: bool = True) -> nn.Module:
    """Return LN for a feature map, which is GN with one group."""
    return GroupNorm(1, num_channels, affine=affine)


def instance_norm(num_channels: int, affine: bool = True) -> nn.Module:
    """Return IN, which is GN with a group for each channel; without affine parameters here, as released.

    torch's InstanceNorm2d computes and returns NCHW where its input is channels-last.
    """
    return GroupNorm(num_channels, num_channels, affine=False)


class GroupWhitening(Norm):
    """Group whitening: decorrelates the groups of each sample (Huang et al., CVPR 2021).

    A sample's channels are split into G groups; each group's M elements are one row of X ∈ ℝ^{G×M}.
    The rows are centred and multiplied by Σ^{-1/2}, Σ = XXᵀ/M + εI, whose inverse root comes from
    T Newton iterations on the trace-normalised Σ. Input and output: (N, C, *).
    """

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, iterations: int = 5, affine: bool = True
    ) -> None:
        super().__init__()
        self.num_groups, self.num_channels = num_groups, num_channels
        self.eps, self.iterations = eps, iterations
        self.weight = nn.Parameter(torch.ones(num_channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_channels)) if affine else None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        # Covariances in half precision lose what whitening is about.
        with full_precision(x_NCHW.device):
            x_NGM = at_least_float(x_NCHW).reshape(x_NCHW.shape[0], self.num_groups, -1)
            x_NGM = x_NGM - x_NGM.mean(dim=2, keepdim=True)
            eye_GG = torch.eye(self.num_groups, device=x_NGM.device, dtype=x_NGM.dtype)
            cov_NGG = x_NGM @ x_NGM.mT / x_NGM.shape[2] + self.eps * eye_GG
            trace_N = cov_NGG.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]
            cov_NGG = cov_NGG / trace_N
            root_NGG = eye_GG.expand_as(cov_NGG)
            for _ in range(self.iterations):
                root_NGG = 1.5 * root_NGG - 0.5 * (root_NGG @ root_NGG @ root_NGG) @ cov_NGG
            white_NCHW = (root_NGG @ x_NGM / trace_N.sqrt()).reshape(x_NCHW.shape)
            white_NCHW = scaled(white_NCHW, self.weight, self.bias)
        return white_NCHW.to(x_NCHW.dtype)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, iterations={self.iterations}"


def scaled(x_NC: Tensor, weight_C: Tensor | None, bias_C: Tensor | None) -> Tensor:
    """Return x (N, C, *) times a weight plus a bias for each channel; x itself where there are none."""
    if weight_C is None or bias_C is None:
        return x_NC
    shape = (1, -1, *[1] * (x_NC.dim() - 2))
    return x_NC * weight_C.view(shape) + bias_C.view(shape)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Return a context without autocast on this device."""
    # Some devices, such as meta, know no autocast.
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def at_least_float(x: Tensor) -> Tensor:
    """Return half-precision tensors as float32, others as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
