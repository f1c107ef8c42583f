"""Batch renormalisation: training that normalises, within bounds, as inference will.

Shape suffixes: N samples, C channels; `*` is any number of further dimensions, such as pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from suite.models.batch_free import scaled
from suite.models.norms.variant import BatchNormVariant

R_MAX, D_MAX = 3.0, 5.0


class BatchRenorm(BatchNormVariant):
    """BN whose output is corrected by the estimates, before these follow the batch (Ioffe, NIPS 2017).

        y = γ ((x − μ_B) / σ_B · r + d) + β
        r = σ_B / σ, within [1 / r_max, r_max]        d = (μ_B − μ) / σ, within [−d_max, d_max]

    μ and σ are the estimates, r and d are constants for the gradient, and each σ² includes ε. Unbounded, y is
    what inference gives. The bounds are r_max = 1 and d_max = 0 for the first `relax_batches[0]` batches,
    which is BN; then r_max grows linearly to 3 at batch `relax_batches[1]`, and d_max to 5 at
    `relax_batches[2]`. The defaults are the paper's: 5,000, 40,000 and 25,000 of its steps. Batches are
    counted in `num_batches_tracked`, so that a resumed training continues the schedule; ghost groups and
    micro batches count as batches.

    Two things are BN's, so that the estimates compare with BN's: they average the unbiased variance, where
    the paper averages σ_B, and the momentum is that of the config, where the paper has 0.01.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        relax_batches: Sequence[int] = (5_000, 40_000, 25_000),
    ) -> None:
        super().__init__(num_features, eps, momentum, affine)
        self.relax_batches = tuple(relax_batches)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return r_max and d_max for the next batch, each ()."""
        start, r_end, d_end = self.relax_batches
        done = self.num_batches_tracked - start
        shares = [(done / max(1, end - start)).clamp(0, 1) for end in (r_end, d_end)]
        return 1 + (R_MAX - 1) * shares[0], D_MAX * shares[1]

    def normalise(self, x_NC: Tensor) -> Tensor:
        out_NC, mean_C, var_C = self.by_batch(x_NC)
        r_C, d_C = self._corrections(mean_C, var_C, x_NC.numel() // x_NC.shape[1])
        weight_C, bias_C = r_C, d_C
        if self.affine:
            weight_C, bias_C = self.weight * r_C, self.weight * d_C + self.bias
        return scaled(out_NC, weight_C, bias_C).to(x_NC.dtype)

    # Compiled, the backward pass was seen to take r and d from the estimates as they are after the update.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def _corrections(self, mean_C: Tensor, var_C: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return r and d, each (C,), for a batch of `count` values a channel, and update the estimates."""
        batch_sigma_C = (var_C * ((count - 1) / count) + self.eps).sqrt()
        sigma_C = (self.running_var + self.eps).sqrt()
        r_max, d_max = self.bounds()
        r_C = (batch_sigma_C / sigma_C).clamp(1 / r_max, r_max)
        d_C = ((mean_C - self.running_mean) / sigma_C).clamp(-d_max, d_max)
        self.num_batches_tracked += 1
        self.update(mean_C, var_C, self.weight_of_batch)
        return r_C, d_C

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, relax_batches={list(self.relax_batches)}"
