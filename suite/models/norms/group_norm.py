"""Group norm that computes in autocast's type on GPUs, as BN does there."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """torch's group norm. Under CUDA's autocast it computes in autocast's type, with float32 statistics.

    Autocast itself would run it in float32, and so double the bytes that it and the convolution behind it
    move; it leaves BN alone. torch ≥ 2.15 has kernels for channels-last inputs, whose layout the output
    then has.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cuda" or not torch.is_autocast_enabled("cuda"):
            return super().forward(input)
        dtype = torch.get_autocast_dtype("cuda")
        weight, bias = (None if one is None else one.to(dtype) for one in (self.weight, self.bias))
        with torch.autocast("cuda", enabled=False):
            return F.group_norm(input.to(dtype), self.num_groups, weight, bias, self.eps)
