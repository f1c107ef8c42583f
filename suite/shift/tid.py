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

On a GPU each operation has a cost of its own, and only the first rank measures TID. There a pass only copies
the estimates, in two operations, and TID is computed of several passes at once.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from suite.errors import UserError
from suite.shift.batches import Images
from suite.shift.layers import centres, estimates, estimating_layers, is_bias_corrected, preserved
from suite.shift.passes import run_pass

PASSES_AT_ONCE = 16
"""On a GPU. On a CPU, where a number's place in a vector decides how it is rounded, one at a time."""


class TidMeter:
    """Sums TID over this rank's training passes, by layer in forward order.

    Call `update` after each forward pass in training mode; it does not wait for the GPU. `pop_epoch_means`
    ends an epoch, `pop_interval_means` an interval of passes within it.
    """

    def __init__(
        self,
        model: nn.Module,
        example_N: Images,
        *,
        norm_batch_size: int,
        passes_at_once: int | None = None,
    ) -> None:
        """Find the layers, their order and sizes by an inference pass over an input batch, `example_N`.

        `norm_batch_size` is the number of samples behind one statistic in training. Layers that keep no
        estimates or are not called are left out. `passes_at_once`: of how many passes TID is computed
        together; None: one on a CPU, else `PASSES_AT_ONCE`. Raises UserError when no layer is left, and for a
        momentum of 0.
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
        self._num_passes_L = torch.zeros(len(self.layers), dtype=torch.float64, device=device)
        self._interval_start = {"sums_2D": self._sums_2D.clone(), "num_passes": self._num_passes_L.clone()}
        self._capacity = passes_at_once or (1 if device.type == "cpu" else PASSES_AT_ONCE)
        # The estimates before the passes that are not summed up yet, and after each of them.
        dtype, rows = estimates(next(iter(self.layers.values())))[0].dtype, self._capacity + 1
        self._estimates_P2D = torch.empty(rows, 2, len(self._layer_D), dtype=dtype, device=device)
        self._updates_PL = torch.empty(rows, len(self.layers), dtype=torch.int64, device=device)
        self._num_waiting = 0
        self.restart()

    @property
    def num_passes_L(self) -> Tensor:
        """How many passes of the epoch have updated each layer, (L,)."""
        self._sum_up()
        return self._num_passes_L

    def restart(self) -> None:
        """Set the current estimates as those before the next pass, as after loading a checkpoint."""
        self._sum_up()
        self._copy_estimates(0)

    def update(self) -> None:
        """Add the pass that has just run in training mode."""
        self._num_waiting += 1
        self._copy_estimates(self._num_waiting)
        if self._num_waiting == self._capacity:
            self._sum_up()

    @torch.no_grad()
    def _copy_estimates(self, row: int) -> None:
        means, variances = zip(*map(estimates, self.layers.values()), strict=True)
        counts = [layer.get_buffer("num_batches_tracked") for layer in self.layers.values()]
        torch.cat([*means, *variances], out=self._estimates_P2D[row].view(-1))
        torch.stack(counts, out=self._updates_PL[row])

    @torch.no_grad()
    def _sum_up(self) -> None:
        """Add TID of the passes whose estimates wait, in their order."""
        count, self._num_waiting = self._num_waiting, 0
        if not count:
            return
        mean_PD, var_PD = self._estimates_P2D[: count + 1].unbind(1)
        updates_PL = self._updates_PL[: count + 1]
        new_PL = updates_PL[1:] - updates_PL[:-1]
        active_PL = new_PL > 0
        # The weight of a pass's batches in the newest estimate; 1, and unused, where there were none.
        share_PL = self._share_of_batches(updates_PL)
        kept_PL = self._left_L**new_PL * share_PL[:-1] / share_PL[1:]
        weight_PL = torch.where(self._left_L.isnan(), new_PL / updates_PL[1:].clamp(min=1), 1 - kept_PL)
        weight_PD = torch.where(active_PL, weight_PL, 1.0)[:, self._layer_D]
        active_PD = active_PL[:, self._layer_D]
        batch_var_PD = var_PD[:-1].lerp(var_PD[1:], 1 / weight_PD).mul_(self._biased_D).clamp_(min=0)
        batch_sigma_PD = batch_var_PD.add_(self._eps_D).sqrt_()
        # The estimate has moved by the share w towards the batch's statistic; this is the remaining distance.
        left_PD = (mean_PD[1:] - mean_PD[:-1]).mul_((1 - weight_PD) / weight_PD)
        tid_mu_PD = left_PD.abs_().div_(batch_sigma_PD).mul_(active_PD)
        tid_sigma_PD = (var_PD[1:] + self._eps_D).sqrt_().div_(batch_sigma_PD).sub_(1).abs_().mul_(active_PD)
        for tid_2D in torch.stack([tid_mu_PD, tid_sigma_PD], dim=1):
            self._sums_2D += tid_2D
        self._num_passes_L += active_PL.sum(dim=0)
        self._estimates_P2D[0] = self._estimates_P2D[count]
        self._updates_PL[0] = self._updates_PL[count]

    def _share_of_batches(self, updates_PL: Tensor) -> Tensor:
        """Return by what a corrected average is divided after t updates, 1 − (1 − m)^t; 1 for others."""
        return 1 - self._corrected_L * self._left_L**updates_PL

    def pop_epoch_means(self) -> tuple[list[float], list[float]]:
        """Return TID_μ and TID_σ of each layer, means over the passes since the last call; reset the sums.

        NaN for a layer that no pass updated; empty lists when there was no pass.
        """
        means = self._means(self._sums_2D, self.num_passes_L)
        for sums in (self._sums_2D, self._num_passes_L, *self._interval_start.values()):
            sums.zero_()
        return means

    def pop_interval_means(self) -> tuple[list[float], list[float]]:
        """As `pop_epoch_means`, over the passes since the last call of either; keeps the epoch's sums."""
        before, self._interval_start = self._interval_start, self._sums()
        return self._means(self._sums_2D - before["sums_2D"], self._num_passes_L - before["num_passes"])

    def _means(self, sums_2D: Tensor, num_passes_L: Tensor) -> tuple[list[float], list[float]]:
        if not num_passes_L.any():
            return [], []
        parts = torch.split(sums_2D, self._widths, dim=1)
        means_2L = torch.stack([part.mean(dim=1) for part in parts], dim=1) / num_passes_L
        tid_mu, tid_sigma = means_2L.tolist()
        return tid_mu, tid_sigma

    def _sums(self) -> dict[str, Tensor]:
        self._sum_up()
        return {"sums_2D": self._sums_2D.clone(), "num_passes": self._num_passes_L.clone()}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs: the epoch's sums, and those up to the last interval."""
        return {**self._sums(), "told": {name: sums.clone() for name, sums in self._interval_start.items()}}

    def load(self, state: dict[str, Any] | None) -> None:
        """Continue from a checkpoint's `state`, or start anew, with the model's current estimates."""
        self._num_waiting = 0
        if state is not None:
            self._sums_2D.copy_(state["sums_2D"])
            # Old checkpoints have one number for all layers.
            self._num_passes_L.copy_(torch.as_tensor(state["num_passes"]))
            for name, sums in state.get("told", {}).items():
                self._interval_start[name].copy_(sums)
        self.restart()
