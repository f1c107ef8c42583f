"""EvoNorm-S0, a norm and activation in one that was found by a search.

Shape suffixes: N samples, C channels, G groups; `*` is any number of further dimensions, such as pixels.
"""

import torch
from torch import Tensor, nn

from suite.models.batch_free import Norm, at_least_float, full_precision, scaled


class EvoNormS0(Norm):
    """EvoNorm-S0 in place of a norm and the activation behind it (Liu, Brock, Simonyan and Le, NeurIPS 2020).

        y = γ x · sigmoid(v x) / √(s² + ε) + β

    s² is the biased variance of a sample's group of channels, over its channels and pixels. γ, β and v are
    learned for each channel, from 1, 0 and 1; ε = 1e-5. The paper has 32 groups, as GN has everywhere by
    default; here they are clipped to the channels and, in XBN, as many as GN's.

    If not `activate`, the output is γ x + β, as in timm (`apply_act=False`): x · sigmoid(v x) is an
    activation that the block does not have there, and the norm is defined with it alone. Input and output:
    (N, C, *).
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        affine: bool = True,
        activate: bool = True,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        self.weight = nn.Parameter(torch.ones(num_channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_channels)) if affine else None
        self.slope = nn.Parameter(torch.ones(num_channels)) if activate else None

    def forward(self, x_NC: Tensor) -> Tensor:
        with full_precision(x_NC.device):
            out_NC = at_least_float(x_NC)
            if self.slope is not None:
                slope_C1 = self.slope.view(-1, *[1] * (x_NC.dim() - 2))
                grouped_NGM = out_NC.reshape(len(out_NC), self.num_groups, -1)
                var_NG1 = grouped_NGM.var(dim=2, correction=0, keepdim=True)
                inverse_NGM = (var_NG1 + self.eps).rsqrt().expand_as(grouped_NGM)
                out_NC = out_NC * (out_NC * slope_C1).sigmoid() * inverse_NGM.reshape(x_NC.shape)
            out_NC = scaled(out_NC, self.weight, self.bias)
        return out_NC.to(x_NC.dtype)

    def extra_repr(self) -> str:
        is_active = self.slope is not None
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, activate={is_active}"
