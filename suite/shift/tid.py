"""TID: the discrepancy between the statistics of training and of inference, at every training step.

Source: Wang, Wu and Huang, NeurIPS 2022, as released (wjxts/RegularizedBN). For a batch B, with running
statistics that already include it and with the batch's biased variance, means over a layer's channels:

    TID_μ = mean_C |μ_run − μ_B| / σ_B          TID_σ = mean_C |σ_run / σ_B − 1|

Every σ² here includes BN's ε, so that a channel that is constant in a batch does not divide by zero.

The batch's statistics b are not computed again. They follow from the running ones: r' = (1 − w) r + w b, so
b = r + (r' − r) / w, with the momentum for w. In float32 b has an error of about 2⁻²⁴ |r| / w. The running
variance takes the unbiased batch variance; (n − 1) / n makes it biased, for n values a channel.

Where a pass updates the estimates k times (ghost groups, a module called twice), as the layer itself counts
(`num_batches_tracked`), w = 1 − (1 − m)^k, and b is the weighted mean of the k statistics, with the largest
weight on the newest. TID is that of this mean, and less than the mean over the groups. With momentum None the
running statistics are the mean of all t batches so far, and w = k / t. Bias-corrected ones (BCBN) have
w = 1 − (1 − m)^k (1 − (1 − m)^(t − k)) / (1 − (1 − m)^t). A layer that subtracts no mean (MABN) has
TID_μ = 0, and its σ_B² is the second moment with which it normalised the batch, but for r.

A pass counts for the layers that it updates: others have no batch statistics to compare.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from suite.errors import UserError
from suite.shift.batches import Images
from suite.shift.layers import centres, estimates, estimating_layers, is_bias_corrected, preserved
from suite.shift.passes import run_pass


class TidMeter:
    """Sums TID over this rank's training passes, by layer in forward order.

    Call `update` after each forward pass in training mode; it does not wait for the GPU. `pop_epoch_means`
    ends an epoch, `pop_interval_means` an interval of passes within it.
    """

    def __init__(self, model: nn.Module, example_N: Images, *, norm_batch_size: int) -> None:
        """Find the layers, their order and sizes by an inference pass over an input batch, `example_N`.

        `norm_batch_size` is the number of samples behind one statistic in training. Layers that keep no
        estimates or are not called are left out. Raises UserError when none is left, and for a momentum of 0.
        """
        layers = estimating_layers(model, "TID")
        with preserved(model):
            model.eval()
            seen = run_pass(model, [example_N], "TID", over_ranks=False)
        self.layers = {name: layers[name] for name in seen.inputs if name in layers}
        if not self.layers:
            raise UserError("TID: no BN layer is called in the forward pass")
        if frozen := [name for name, layer in self.layers.items() if layer.momentum == 0]:
            raise UserError(f"TID: {frozen[0]} has momentum 0, so its estimates never see a batch")
        device = estimates(next(iter(self.layers.values())))[0].device
        self._widths = [layer.num_features for layer in self.layers.values()]
        widths_L = torch.tensor(self._widths)
        self._layer_D = torch.arange(len(self._widths)).repeat_interleave(widths_L).to(device)
        momenta = [math.nan if layer.momentum is None else layer.momentum for layer in self.layers.values()]
        self._left_L = 1 - torch.tensor(momenta, device=device)
        corrected = [float(is_bias_corrected(layer)) for layer in self.layers.values()]
        self._corrected_L = torch.tensor(corrected, device=device)
        calls = {name: seen.inputs[name].num_calls for name in self.layers}
        values = {n: seen.inputs[n].whole.count / calls[n] / len(example_N) for n in self.layers}
        sizes = {name: max(2, values[name] * norm_batch_size) for name in self.layers}
        biased = [1 - 1 / sizes[n] if centres(layer) else 1.0 for n, layer in self.layers.items()]
        self._biased_D = torch.tensor(biased, device=device)[self._layer_D]
        eps = [layer.eps for layer in self.layers.values()]
        self._eps_D = torch.tensor(eps, device=device)[self._layer_D]
        self._sums_2D = torch.zeros(2, len(self._layer_D), dtype=torch.float64, device=device)
        self.num_passes_L = torch.zeros(len(self.layers), dtype=torch.float64, device=device)
        self._interval_start = {"sums_2D": self._sums_2D.clone(), "num_passes": self.num_passes_L.clone()}
        self.restart()

    def restart(self) -> None:
        """Set the current estimates as those before the next pass, as after loading a checkpoint."""
        self._mean_D, self._var_D, self._updates_L = self._estimates()

    @torch.no_grad()
    def update(self) -> None:
        """Add the pass that has just run in training mode."""
        mean_D, var_D, updates_L = self._estimates()
        new_L = updates_L - self._updates_L
        active_L = new_L > 0
        # The weight of the pass's batches in the newest estimate; 1, and unused, where there were none.
        kept_L = (
            self._left_L**new_L * self._share_of_batches(self._updates_L) / self._share_of_batches(updates_L)
        )
        weight_L = torch.where(self._left_L.isnan(), new_L / updates_L.clamp(min=1), 1 - kept_L)
        weight_D = torch.where(active_L, weight_L, 1.0)[self._layer_D]
        active_D = active_L[self._layer_D]
        batch_var_D = self._var_D.lerp(var_D, 1 / weight_D).mul_(self._biased_D).clamp_(min=0)
        batch_sigma_D = batch_var_D.add_(self._eps_D).sqrt_()
        # The estimate has moved by the share w towards the batch's statistic; this is the remaining distance.
        left_D = (mean_D - self._mean_D).mul_((1 - weight_D) / weight_D)
        self._sums_2D[0] += left_D.abs_().div_(batch_sigma_D).mul_(active_D)
        self._sums_2D[1] += (var_D + self._eps_D).sqrt_().div_(batch_sigma_D).sub_(1).abs_().mul_(active_D)
        self._mean_D, self._var_D, self._updates_L = mean_D, var_D, updates_L
        self.num_passes_L += active_L

    def _share_of_batches(self, updates_L: Tensor) -> Tensor:
        """Return by what a corrected average is divided after t updates, 1 − (1 − m)^t; 1 for others."""
        return 1 - self._corrected_L * self._left_L**updates_L

    def pop_epoch_means(self) -> tuple[list[float], list[float]]:
        """Return TID_μ and TID_σ of each layer, means over the passes since the last call; reset the sums.

        NaN for a layer that no pass updated; empty lists when there was no pass.
        """
        means = self._means(self._sums_2D, self.num_passes_L)
        for sums in (self._sums_2D, self.num_passes_L, *self._interval_start.values()):
            sums.zero_()
        return means

    def pop_interval_means(self) -> tuple[list[float], list[float]]:
        """As `pop_epoch_means`, over the passes since the last call of either; keeps the epoch's sums."""
        before, self._interval_start = self._interval_start, self._sums()
        return self._means(self._sums_2D - before["sums_2D"], self.num_passes_L - before["num_passes"])

    def _means(self, sums_2D: Tensor, num_passes_L: Tensor) -> tuple[list[float], list[float]]:
        if not num_passes_L.any():
            return [], []
        parts = torch.split(sums_2D, self._widths, dim=1)
        means_2L = torch.stack([part.mean(dim=1) for part in parts], dim=1) / num_passes_L
        tid_mu, tid_sigma = means_2L.tolist()
        return tid_mu, tid_sigma

    def _sums(self) -> dict[str, Tensor]:
        return {"sums_2D": self._sums_2D.clone(), "num_passes": self.num_passes_L.clone()}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs: the epoch's sums, and those up to the last interval."""
        return {**self._sums(), "told": {name: sums.clone() for name, sums in self._interval_start.items()}}

    def load(self, state: dict[str, Any] | None) -> None:
        """Continue from a checkpoint's `state`, or start anew, with the model's current estimates."""
        if state is not None:
            self._sums_2D.copy_(state["sums_2D"])
            # Old checkpoints have one number for all layers.
            self.num_passes_L.copy_(torch.as_tensor(state["num_passes"]))
            for name, sums in state.get("told", {}).items():
                self._interval_start[name].copy_(sums)
        self.restart()

    def _estimates(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return all layers' estimates, each (D,), and the number of updates of each layer's, (L,)."""
        means, variances = zip(*map(estimates, self.layers.values()), strict=True)
        counts = [layer.get_buffer("num_batches_tracked") for layer in self.layers.values()]
        return torch.cat(means), torch.cat(variances), torch.stack(counts)
