"""Moving-average BN: averages over recent batches in the forward and in the backward pass.

Shape suffixes: N samples, C channels, G groups of samples with statistics of their own, W recent groups;
`*` is any number of further dimensions, such as pixels.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from suite.models.batch_free import at_least_float, full_precision, scaled
from suite.models.norms.variant import BatchNormVariant

CLIP = 5.0  # the corrections r lie in [1 / CLIP, CLIP]
AVERAGING_FROM_BATCH = 100  # earlier batches are normalised by their own statistics
CLIPPING_FROM_BATCH = 1001  # earlier batches have r = 1


class MovingAverageBatchNorm(BatchNormVariant):
    """MABN (Yan, Wan, Zhang, Zhang, Wei and Sun, ICLR 2020), as released (megvii-model/MABN).

    No mean is subtracted; the weights before the norm are centred instead (`suite.models.norms.centred`).
    With χ_B² = mean(x²) of a batch, χ̄² its average over the last `window` batches, and χ² the estimate in
    `running_var`, before it follows this batch:

        z = x / √(χ̄² + ε)        y = γ r z + β        r = √(χ̄² + ε) / √(χ² + ε), within [1/5, 5]
        ∂L/∂x = (g − z Ψ̄) / √(χ̄² + ε)        g = γ r ∂L/∂y        Ψ_B = mean(g z)

    where Ψ̄ is the average of Ψ_B over the last `window` batches; BN's own backward pass has Ψ_B, which is
    noisy for small batches. χ² ← (1 − m) χ² + m χ̄². Inference divides by √(χ² + ε).

    The paper's `window` is 16 at two samples per batch, its momentum 0.02. Ours is the config's. As released,
    the first 99 batches (or `window`, if more) are normalised by χ_B² and Ψ_B, and r is 1 for the first
    1,000. Ghost groups and micro batches count as batches, in `num_batches_tracked`.
    """

    centres = False
    recent_squares_WC: Tensor
    recent_products_WC: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        window: int = 16,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine)
        self.window = window
        for name in ("recent_squares_WC", "recent_products_WC"):
            self.register_buffer(name, torch.zeros(window, num_features))

    def train_on(self, x_NC: Tensor, size: int) -> Tensor:
        """Normalise a training batch in groups of `size` samples, of which the last may be smaller.

        A smaller one has a backward pass of its own, which comes before that of the others.
        """
        whole = len(x_NC) // size * size
        parts = [part for part in (x_NC[:whole], x_NC[whole:]) if len(part)]
        out = [self._normalise_groups(part, min(size, len(part))) for part in parts]
        return out[0] if len(out) == 1 else torch.cat(out)

    # A compiler would have to follow how the backward pass changes a buffer.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _normalise_groups(self, x_NC: Tensor, size: int) -> Tensor:
        with full_precision(x_NC.device):
            x_GNC = at_least_float(x_NC).reshape(-1, size, *x_NC.shape[1:])
            inverse_GC, r_GC, is_averaged_G = self._statistics(x_GNC.detach())
            out_GNC: Tensor = _Normalise.apply(x_GNC, self, inverse_GC, r_GC, is_averaged_G)
            out_NC = scaled(out_GNC.flatten(0, 1), self.weight, self.bias)
        return out_NC.to(x_NC.dtype)

    @torch.no_grad()
    def _statistics(self, x_GNC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return 1 / √(χ̄² + ε), r, and whether each group's statistics are averages; update the estimates."""
        batch_G = self.num_batches_tracked + torch.arange(1, len(x_GNC) + 1, device=x_GNC.device)
        is_averaged_G = (batch_G >= AVERAGING_FROM_BATCH) & (batch_G > self.window)
        squares_GC = x_GNC.square().mean(dim=(1, *range(3, x_GNC.dim()))).to(self.running_var.dtype)
        squares_GC = averaged(self.recent_squares_WC, squares_GC, is_averaged_G)
        ratios = []
        for square_C in squares_GC:
            ratios.append((square_C + self.eps) / (self.running_var + self.eps))
            self.running_var.lerp_(square_C, self.weight_of_batch)
        r_GC = torch.stack(ratios).sqrt().clamp(1 / CLIP, CLIP)
        r_GC = torch.where((batch_G >= CLIPPING_FROM_BATCH)[:, None], r_GC, 1.0)
        self.num_batches_tracked += len(x_GNC)
        return (squares_GC + self.eps).rsqrt(), r_GC, is_averaged_G

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, window={self.window}"


def averaged(recent_WC: Tensor, new_GC: Tensor, is_averaged_G: Tensor) -> Tensor:
    """Return for each new value the mean of the last W ones, itself included, or itself where not averaged.

    `recent_WC` holds the last values, the oldest first, and takes in the new ones.
    """
    history_XC = torch.cat([recent_WC, new_GC])
    means_GC = history_XC.unfold(0, len(recent_WC), 1)[1:].mean(dim=-1)
    recent_WC.copy_(history_XC[-len(recent_WC) :])
    return torch.where(is_averaged_G[:, None], means_GC, new_GC)


class _Normalise(torch.autograd.Function):
    """y = r x · inverse for each group, with the gradient of the class above."""

    @staticmethod
    def forward(
        ctx: Any,
        x_GNC: Tensor,
        norm: MovingAverageBatchNorm,
        inverse_GC: Tensor,
        r_GC: Tensor,
        is_averaged_G: Tensor,
    ) -> Tensor:
        ctx.norm = norm
        shape = (len(x_GNC), 1, -1, *[1] * (x_GNC.dim() - 3))
        inverse_G1C, r_G1C = inverse_GC.view(shape), r_GC.view(shape)
        z_GNC = x_GNC * inverse_G1C
        ctx.save_for_backward(z_GNC, inverse_G1C, r_G1C, is_averaged_G)
        return z_GNC * r_G1C

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_GNC: Tensor) -> tuple[Tensor, None, None, None, None]:
        z_GNC, inverse_G1C, r_G1C, is_averaged_G = ctx.saved_tensors
        gradient_GNC = gradient_GNC * r_G1C
        recent_WC = ctx.norm.recent_products_WC
        products_GC = (gradient_GNC * z_GNC).mean(dim=(1, *range(3, z_GNC.dim()))).to(recent_WC.dtype)
        products_GC = averaged(recent_WC, products_GC, is_averaged_G)
        return (gradient_GNC - z_GNC * products_GC.view(r_G1C.shape)) * inverse_G1C, None, None, None, None
