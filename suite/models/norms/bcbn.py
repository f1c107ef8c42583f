"""BN whose estimates hold nothing of their first values."""

import torch
from torch import Tensor

from suite.models.norms.variant import BatchNormVariant


class BiasCorrectedBatchNorm(BatchNormVariant):
    """BN that is divided by 1 − (1 − m)ᵗ in inference: a running average from 0, corrected as Adam's moments.

    Training is BN's. After t batches with statistics b and momentum m, the estimates are

        rₜ / (1 − (1 − m)ᵗ)        with rₜ = (1 − m) rₜ₋₁ + m bₜ and r₀ = 0

    which is the average with weights (1 − m)^(t−i) alone (Kingma and Ba 2015 for Adam; see also
    `suite.shift.precise.bias_corrected_statistics`). The corrected average, and not rₜ, is in `running_mean`
    and `running_var`, since it is what inference uses. It follows by itself, as c ← c + w (b − c) with
    w = m / (1 − (1 − m)ᵗ); so the first batch replaces the initial 0 and 1.
    """

    is_bias_corrected = True

    def normalise(self, x_NC: Tensor) -> Tensor:
        out_NC, mean_C, var_C = self.by_batch(x_NC, self.weight, self.bias)
        with torch.no_grad():
            self.num_batches_tracked += 1
            momentum = self.weight_of_batch
            weight = momentum / (1 - (1 - momentum) ** self.num_batches_tracked.double())
            self.update(mean_C, var_C, weight.to(mean_C.dtype))
        return out_NC
