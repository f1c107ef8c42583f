"""Measures how sensitive a network is to wrong estimates: its accuracy under noise on them.

One draw is one set of ε, scaled by every δ: along a draw's curve only the magnitude of the noise changes. A
layer's ε depend on its name alone, so that networks with the same layer get the same noise in it.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from suite.errors import UserError
from suite.shift.batches import Logits
from suite.shift.layers import estimates, estimating_layers
from suite.shift.passes import check_repeatable, run_pass, top1_of
from suite.shift.precise import with_statistics

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

PURPOSE = "perturb"


@dataclass(frozen=True)
class Perturbation:
    """Top-1 (%) by noise magnitude: `top1_percent[i][j]` is that of `deltas[i]` in draw j.

    At δ = 0 there is no noise, and all draws have the same accuracy. `notes` as in a ShiftProfile.
    """

    deltas: tuple[float, ...]
    top1_percent: tuple[tuple[float, ...], ...]
    num_images: int
    notes: dict[str, str]

    def to_frame(self) -> "pd.DataFrame":
        """A row for each magnitude and draw: delta, draw, top1_percent."""
        import pandas as pd

        rows = [
            [delta, draw, top1]
            for delta, draws in zip(self.deltas, self.top1_percent, strict=True)
            for draw, top1 in enumerate(draws)
        ]
        return pd.DataFrame(rows, columns=["delta", "draw", "top1_percent"])

    def plot(self) -> "alt.LayerChart | alt.FacetChart":
        """Top-1 against δ: every draw, and their mean as a line."""
        from suite.shift.charts import perturbation_chart

        return perturbation_chart(self.to_frame())


def perturb(
    model: nn.Module,
    batches: Iterable[Any],
    deltas: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    *,
    draws: int = 5,
    seed: int = 0,
    layers: Sequence[str] | None = None,
    logits: Logits | None = None,
) -> Perturbation:
    """Measure accuracy with noisy estimates in BN layers: one inference pass for each δ > 0 and draw.

        μ̃ + δ·σ̃·ε        σ̃·|1 + δ·ε′|        ε, ε′ (C,) ~ N(0, 1)

    in place of the running averages μ̃, σ̃ (C,). Huang et al. (CVPR 2022) show such curves without a formula;
    this one is our reading. Clamping σ̃ to a small value instead would make a channel's output huge.

    `batches` yields (images (N, C, *), labels (N,)) pairs or loader batches and is read repeatedly. `layers`:
    the names of those that get noise; all by default. The noise depends on `seed`, the draw and the layer's
    name alone, not on the device or on torch's global generator, which is not changed. `logits` takes the
    (N, K) logits out of what the model returns. The model is restored. Raises UserError for a network without
    estimates, an unknown layer, batches that are empty or have no labels, and values out of range.
    """
    check_repeatable(batches, PURPOSE)
    found = estimating_layers(model, PURPOSE)
    if not deltas or draws < 1 or any(delta < 0 for delta in deltas):
        raise UserError(f"{PURPOSE}: needs one or more deltas ≥ 0 and draws ≥ 1")
    if unknown := [name for name in layers or () if name not in found]:
        reason = f"is not a BN layer that keeps estimates; valid: {', '.join(found)}"
        raise UserError(f"{PURPOSE}: {unknown[0]!r} {reason}")
    noisy = found if layers is None else {name: found[name] for name in layers}
    noise = [
        {name: _noise(seed, draw, name, layer.num_features) for name, layer in noisy.items()}
        for draw in range(draws)
    ]
    rows = []
    for delta in deltas:
        row: list[float] = []
        for noise_of in noise:
            if delta == 0 and row:
                row.append(row[0])
                continue
            perturbed = {n: _perturbed(*estimates(layer), delta, noise_of[n]) for n, layer in noisy.items()}
            with with_statistics(model, perturbed):
                model.eval()
                seen = run_pass(model, batches, PURPOSE, with_labels=True, logits=logits)
            row.append(top1_of(seen, PURPOSE))
            if delta == min(deltas):  # for the notes: more noise alone may overflow
                quietest = seen
        rows.append(tuple(row))
    return Perturbation(tuple(deltas), tuple(rows), quietest.num_images, quietest.notes(found))


def _noise(seed: int, draw: int, name: str, num_channels: int) -> Tensor:
    """Return a layer's ε and ε′, (2, C)."""
    digest = hashlib.sha256(f"{seed}/{draw}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(2, num_channels, generator=generator)


def _perturbed(mean_C: Tensor, var_C: Tensor, delta: float, noise_2C: Tensor) -> tuple[Tensor, Tensor]:
    mu_noise_C, sigma_noise_C = noise_2C.to(mean_C.device, torch.float64)
    mean_C, var_C = mean_C.double(), var_C.double()
    # The layer stores the variance, so its factor is the square, and the sign of 1 + δε′ does not matter.
    return mean_C + delta * var_C.sqrt() * mu_noise_C, var_C * (1 + delta * sigma_noise_C).square()
