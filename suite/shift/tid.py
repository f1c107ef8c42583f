"""TID: how far training's statistics are from inference's, at every step, for the price of a few vectors.

Source: Wang, Wu and Huang, NeurIPS 2022, as released (wjxts/RegularizedBN). For a batch B, with running
statistics that have taken it in already and the batch's biased variance, means over a layer's channels:

    TID_μ = mean_C |μ_run − μ_B| / σ_B          TID_σ = mean_C |σ_run / σ_B − 1|

BN's ε is in every σ² here, so that a channel that is constant in a batch divides by no zero.

The batch's statistics b are not computed again. The running ones r tell them: r' = (1 − w) r + w b, so
b = r + (r' − r) / w, with the momentum for w. float32 costs b an error of about 2⁻²⁴ |r| / w. The running
variance takes the unbiased batch variance; (n − 1) / n makes it biased, for n values a channel.

Where a pass updates the estimates k times (ghost groups, a module called twice), w = 1 − (1 − m)^k, and b is
the weighted mean of the k statistics, the newest weighing most: TID is that of this mean, and less than the
mean of the groups' own. With momentum None the running statistics are the mean of all t batches so far, and
w = k / t.

A pass counts for the layers whose estimates it changed: one that it does not reach, or that is frozen, has
no batch to differ from.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from suite.errors import UserError
from suite.shift.layers import estimates, estimating_layers, preserved
from suite.shift.passes import run_pass


class TidMeter:
    """Sums TID over this rank's training passes, by layer in forward order.

    Call `update` after each forward pass in training mode, and `take_means` at the end of an epoch.
    """

    def __init__(
        self, model: nn.Module, example_N: Tensor, *, norm_batch_size: int, updates_per_pass: int = 1
    ) -> None:
        """One inference pass over `example_N`, an input batch, tells the layers' order and their sizes.

        `norm_batch_size` is how many samples stand behind one statistic in training, `updates_per_pass` how
        often a pass updates a layer's estimates. Layers that keep no estimates or are not called are left
        out. Raises UserError when none is left, and for a momentum of 0.
        """
        layers = estimating_layers(model, "TID")
        with preserved(model):
            model.eval()
            seen = run_pass(model, [example_N], "TID", over_ranks=False)
        self.layers = {name: layers[name] for name in seen.inputs if name in layers}
        if not self.layers:
            raise UserError("TID: no BN layer is called in the forward pass")
        frozen = [name for name, layer in self.layers.items() if layer.momentum == 0]
        if frozen:
            raise UserError(f"TID: {frozen[0]} has momentum 0, so its estimates never see a batch")
        calls = {name: seen.inputs[name].num_calls for name in self.layers}
        values = {n: seen.inputs[n].whole.count / calls[n] / len(example_N) for n in self.layers}
        updates = {name: updates_per_pass * count for name, count in calls.items()}
        momenta = {name: layer.momentum for name, layer in self.layers.items()}
        device = estimates(next(iter(self.layers.values())))[0].device
        self._widths_L = torch.tensor([layer.num_features for layer in self.layers.values()], device=device)
        self._num_channels = sum(layer.num_features for layer in self.layers.values())
        self._updates_D = self._by_channel(updates)
        # NaN: the weight depends on how many batches there have been.
        fixed = {n: math.nan if m is None else 1 - (1 - m) ** updates[n] for n, m in momenta.items()}
        self._fixed_weight_D = self._by_channel(fixed)
        self._is_cumulative = None in momenta.values()
        self._biased_D = self._by_channel({n: 1 - 1 / max(2, v * norm_batch_size) for n, v in values.items()})
        self._eps_D = self._by_channel({name: layer.eps for name, layer in self.layers.items()})
        self._sums_2D = torch.zeros(2, len(self._eps_D), dtype=torch.float64, device=device)
        self.num_passes_L = torch.zeros(len(self.layers), dtype=torch.float64, device=device)
        self.restart()

    def restart(self) -> None:
        """Take the estimates as they are for those before the next pass, as after loading a checkpoint."""
        self._mean_D, self._var_D = self._estimates()
        self._tracked_D = self._by_channel({name: _tracked(layer) for name, layer in self.layers.items()})
        self._weight_D = self._weights()

    @torch.no_grad()
    def update(self) -> None:
        """Take in the pass that has just run in training mode."""
        mean_D, var_D = self._estimates()
        changed_D = (mean_D != self._mean_D) | (var_D != self._var_D)
        changed_L = torch.segment_reduce(changed_D.float(), "max", lengths=self._widths_L)
        active_D = self._spread(changed_L)
        if self._is_cumulative:
            self._tracked_D = self._tracked_D + self._updates_D * active_D
            self._weight_D = self._weights()
        weight_D = self._weight_D
        batch_var_D = self._var_D.lerp(var_D, 1 / weight_D).mul_(self._biased_D).clamp_(min=0)
        batch_sigma_D = batch_var_D.add_(self._eps_D).sqrt_()
        # The estimate has gone the share w of its way to the batch's statistic: this is what is left of it.
        left_D = (mean_D - self._mean_D).mul_((1 - weight_D) / weight_D)
        self._sums_2D[0] += left_D.abs_().div_(batch_sigma_D).mul_(active_D)
        self._sums_2D[1] += (var_D + self._eps_D).sqrt_().div_(batch_sigma_D).sub_(1).abs_().mul_(active_D)
        self._mean_D, self._var_D = mean_D, var_D
        self.num_passes_L += changed_L

    def take_means(self) -> tuple[list[float], list[float]]:
        """TID_μ and TID_σ of each layer, means over the passes since the last call.

        NaN for a layer that none of them updated; empty where there is no other.
        """
        if not self.num_passes_L.any():
            return [], []
        parts = torch.split(self._sums_2D, self._widths_L.tolist(), dim=1)
        means_2L = torch.stack([part.mean(dim=1) for part in parts], dim=1) / self.num_passes_L
        self._sums_2D.zero_()
        self.num_passes_L.zero_()
        tid_mu, tid_sigma = means_2L.tolist()
        return tid_mu, tid_sigma

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep: the sums since the last means."""
        return {"sums_2D": self._sums_2D.clone(), "num_passes": self.num_passes_L.clone()}

    def load(self, state: dict[str, Any] | None) -> None:
        """Go on from `state`, or anew from None, with the estimates that are in the model now."""
        if state is not None:
            self._sums_2D.copy_(state["sums_2D"])
            # One number for all layers in checkpoints of old.
            self.num_passes_L.copy_(torch.as_tensor(state["num_passes"]))
        self.restart()

    def _estimates(self) -> tuple[Tensor, Tensor]:
        pairs = [estimates(layer) for layer in self.layers.values()]
        return torch.cat([mean for mean, _ in pairs]), torch.cat([var for _, var in pairs])

    def _weights(self) -> Tensor:
        if not self._is_cumulative:
            return self._fixed_weight_D
        weight_D = self._updates_D / torch.maximum(self._updates_D, self._tracked_D)
        return torch.where(self._fixed_weight_D.isnan(), weight_D, self._fixed_weight_D)

    def _by_channel(self, values: Mapping[str, float]) -> Tensor:
        """One number for each layer, in the order of `layers`, for each of its channels."""
        numbers = [float(values[name]) for name in self.layers]
        return self._spread(torch.tensor(numbers, device=self._widths_L.device))

    def _spread(self, values_L: Tensor) -> Tensor:
        return values_L.repeat_interleave(self._widths_L, output_size=self._num_channels)


def _tracked(layer: nn.Module) -> int:
    """How many batches its estimates have seen; 0 where it does not count them."""
    count = layer.num_batches_tracked
    return int(count) if isinstance(count, Tensor) else 0
