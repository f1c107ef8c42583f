"""What BN layers of our own share, and the base of BN's variants.

Shape suffixes: N samples, C channels; `*` is any number of further dimensions, such as pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AnyBatchNorm(nn.BatchNorm2d):
    """BN of inputs (N, C, *)."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected an input (N, C, *), got {input.dim()} dimensions")


class BatchNormVariant(AnyBatchNorm):
    """Base of BN's variants. They differ from it in training, and in how they estimate.

    Inference normalises with `running_mean` and `running_var`, as BN does, so that whatever measures or
    replaces BN's estimates does so with theirs. `num_batches_tracked` counts the batches. In training
    `normalise` is called with each batch, or with groups of `norm_batch_size` samples in turn, and updates
    the estimates. So ghost groups and gradient accumulation give the same result.

    `centres`: whether a mean is subtracted. Otherwise `running_mean` stays 0, and `running_var` estimates the
    second moment E[x²]. `is_bias_corrected`: whether the first values have no weight in the averages.
    """

    centres = True
    is_bias_corrected = False
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True
    ) -> None:
        """Raise ValueError for a momentum outside (0, 1]."""
        if momentum is None or not 0 < momentum <= 1:
            raise ValueError(f"{type(self).__name__} needs a momentum in (0, 1], got {momentum}")
        super().__init__(num_features, eps, momentum, affine)
        self.norm_batch_size: int | None = None

    def forward(self, x_NC: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x_NC)
        self._check_input_dim(x_NC)
        return self.train_on(x_NC, self.norm_batch_size or len(x_NC))

    def train_on(self, x_NC: Tensor, size: int) -> Tensor:
        """Normalise a training batch in groups of `size` samples in turn; the last may be smaller."""
        groups = [self.normalise(group) for group in torch.split(x_NC, size)]
        return groups[0] if len(groups) == 1 else torch.cat(groups)

    def normalise(self, x_NC: Tensor) -> Tensor:
        """Normalise a training batch, and update the estimates."""
        raise NotImplementedError

    def by_batch(
        self, x_NC: Tensor, weight_C: Tensor | None = None, bias_C: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the batch as BN normalises it, and its mean and unbiased variance, each (C,).

        Raises ValueError for a batch with one value per channel.
        """
        mean_C, var_C = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        out_NC = F.batch_norm(x_NC, mean_C, var_C, weight_C, bias_C, True, 1.0, self.eps)
        return out_NC, mean_C, var_C

    @torch.no_grad()
    def update(self, mean_C: Tensor, var_C: Tensor, weight: Tensor | float) -> None:
        """Move the estimates towards a batch's statistics by the share `weight`."""
        self.running_mean.lerp_(mean_C, weight)
        self.running_var.lerp_(var_C, weight)

    @property
    def weight_of_batch(self) -> float:
        """The momentum. It may be changed, but not to None, which has no meaning here."""
        assert self.momentum is not None
        return self.momentum

    def extra_repr(self) -> str:
        ghost = "" if self.norm_batch_size is None else f", norm_batch_size={self.norm_batch_size}"
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}{ghost}"
