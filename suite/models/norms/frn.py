"""Filter response normalisation with its thresholded linear unit (TLU).

Shape suffixes: N samples, C channels; `*` is any number of further dimensions, such as pixels.
"""

import torch
from torch import Tensor, nn

from suite.models.batch_free import Norm, at_least_float, full_precision, scaled


class FilterResponseNorm(Norm):
    """FRN, and the TLU that takes the place of the activation behind it (Singh and Krishnan, CVPR 2020).

    Each channel of each sample is divided by the root mean square of its pixels; no mean is subtracted:

        y = γ x / √(mean(x²) + ε) + β        z = max(y, τ)

    γ, β and τ are learned for each channel, from 1, 0 and 0; ε = 1e-6. All are the paper's defaults. The
    paper trains with a warm-up of the learning rate. If not `activate`, there is no τ and the output is y, as
    in timm (`apply_act=False`): before an addition the TLU would be an activation that the block does not
    have. Input and output: (N, C, *), with pixels.
    """

    def __init__(
        self, num_channels: int, affine: bool = True, activate: bool = True, eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.num_channels, self.eps = num_channels, eps
        self.weight = nn.Parameter(torch.ones(num_channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_channels)) if affine else None
        self.threshold = nn.Parameter(torch.zeros(num_channels)) if activate else None

    def forward(self, x_NC: Tensor) -> Tensor:
        """Raise ValueError for an input without pixels."""
        if x_NC.dim() < 3:
            raise ValueError(f"FRN needs an input (N, C, *) with pixels, got {x_NC.dim()} dimensions")
        with full_precision(x_NC.device):
            out_NC = at_least_float(x_NC)
            square_NC1 = out_NC.square().mean(dim=tuple(range(2, out_NC.dim())), keepdim=True)
            out_NC = scaled(out_NC * (square_NC1 + self.eps).rsqrt(), self.weight, self.bias)
            if self.threshold is not None:
                out_NC = torch.maximum(out_NC, self.threshold.view(-1, *[1] * (out_NC.dim() - 2)))
        return out_NC.to(x_NC.dtype)

    def extra_repr(self) -> str:
        return f"{self.num_channels}, eps={self.eps}, activate={self.threshold is not None}"
