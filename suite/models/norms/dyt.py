"""Dynamic tanh, which takes a norm's place and computes no statistics."""

import torch
from torch import Tensor, nn

from suite.models.batch_free import Norm, at_least_float, full_precision, scaled


class DynamicTanh(Norm):
    """DyT: y = γ tanh(α x) + β (Zhu, Chen, He, LeCun and Liu, CVPR 2025).

    α is one learned number for the layer, from 0.5; γ and β are learned for each channel, from 1 and 0. All
    are the paper's defaults. It has no activation: the one behind it stays. The paper is about transformers;
    in its appendix DyT instead of BN makes ResNet-50 worse. Input and output: (N, C, *).
    """

    def __init__(self, num_channels: int, affine: bool = True, alpha: float = 0.5) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.alpha = nn.Parameter(torch.tensor([alpha]))
        self.weight = nn.Parameter(torch.ones(num_channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_channels)) if affine else None

    def forward(self, x_NC: Tensor) -> Tensor:
        with full_precision(x_NC.device):
            out_NC = scaled(torch.tanh(at_least_float(x_NC) * self.alpha), self.weight, self.bias)
        return out_NC.to(x_NC.dtype)

    def extra_repr(self) -> str:
        return f"{self.num_channels}"
