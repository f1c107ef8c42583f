"""LARS: SGD in which each layer's weight has a learning rate of its own.

Source: You, Gitman and Ginsburg 2017, with the learning rate outside of the momentum, as in LARC and timm.
"""

import torch
from torch import Tensor


class Lars(torch.optim.SGD):
    """SGD on gradients: that of a weight w, g, is replaced by trust · (g + β w).

    trust = η ‖w‖ / (‖g‖ + β ‖w‖), and 1 where one of the two norms is 0. η is the parameter group's
    `trust_coefficient` and β its `layer_weight_decay`; its `weight_decay` is 0. A group without the former is
    SGD's. No value is read, so that the host does not wait.
    """

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update the weights. Takes no closure."""
        for group in self.param_groups:
            if (coefficient := group.get("trust_coefficient")) is not None:
                weights = [weight for weight in group["params"] if weight.grad is not None]
                _adapt(weights, coefficient, group["layer_weight_decay"])
        super().step()


def _adapt(weights: list[Tensor], coefficient: float, decay: float) -> None:
    """Replace the gradients of `weights` by trust · (g + decay · w)."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    if not gradients:
        return
    of_weights_L = torch.stack(torch._foreach_norm(weights))
    of_gradients_L = torch.stack(torch._foreach_norm(gradients))
    trust_L = coefficient * of_weights_L / (of_gradients_L + decay * of_weights_L)
    trust_L = torch.where((of_weights_L > 0) & (of_gradients_L > 0), trust_L, 1.0)
    torch._foreach_add_(gradients, weights, alpha=decay)
    torch._foreach_mul_(gradients, list(trust_L.unbind()))
