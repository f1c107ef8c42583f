"""Averages of trained networks: uniform soups of checkpoints, and points on the line between two of them.

The averaged network has the averages of the estimates, too. They are those of no network: means and variances
of activations do not follow the weights linearly, so compare them with re-estimated ones (`re_estimate`).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from suite.errors import UserError

State = Mapping[str, Tensor]


def soup(states: Mapping[str, State]) -> dict[str, Tensor]:
    """Return the uniform soup of state dicts: the mean of each tensor (Wortsman et al., ICML 2022).

    `states`: names, such as files, to state dicts. Means are taken in float64 and have the type of the first
    one's tensor. Whole numbers, such as `num_batches_tracked`, are those of the first one. Raises UserError
    for fewer than two state dicts, and for two that do not fit each other, with name, key and shapes.
    """
    if len(states) < 2:
        raise UserError(f"a soup takes two state dicts or more, got {len(states)}")
    return _weighted(states, [1 / len(states)] * len(states))


def interpolated(states: Mapping[str, State], alpha: float) -> dict[str, Tensor]:
    """Return (1 − α) · first + α · second of two state dicts (Frankle et al., ICML 2020).

    Whole numbers are those of the nearer one, and of the first in the middle. At α = 0 and 1 the result is
    equal to one of the two. Raises UserError for another number of state dicts, for an α outside [0, 1], and
    as `soup` does.
    """
    if len(states) != 2:
        raise UserError(f"an interpolation takes two state dicts, got {len(states)}")
    if not 0 <= alpha <= 1:
        raise UserError(f"alpha must lie in [0, 1], got {alpha:g}")
    return _weighted(states, [1 - alpha, alpha])


def _weighted(states: Mapping[str, State], weights: Sequence[float]) -> dict[str, Tensor]:
    _check_fit(states)
    nearest = max(range(len(weights)), key=lambda i: weights[i])
    parts = list(states.values())
    return {key: _mean([part[key] for part in parts], weights, nearest) for key in parts[0]}


@torch.no_grad()
def _mean(tensors: Sequence[Tensor], weights: Sequence[float], nearest: int) -> Tensor:
    if not tensors[0].is_floating_point():
        return tensors[nearest].clone()
    total = torch.zeros_like(tensors[0], dtype=torch.float64)
    for tensor, weight in zip(tensors, weights, strict=True):
        if weight:  # 0 times an infinity is no number
            total += weight * tensor.to(total.device, torch.float64)
    return total.to(tensors[0].dtype)


def _check_fit(states: Mapping[str, State]) -> None:
    """Raise UserError for the first state dict that does not fit the first one, with its key and shapes."""
    (first, own), *others = states.items()
    for name, state in others:
        for one, other, lacking in ((own, state, name), (state, own, first)):
            if missing := [key for key in one if key not in other]:
                has = first if lacking == name else name
                raise UserError(f"{lacking}: has no {missing[0]}, which {has} has: they do not average")
        for key, tensor in state.items():
            if tensor.shape != own[key].shape:
                shapes = f"{tuple(tensor.shape)}, and {tuple(own[key].shape)} in {first}"
                raise UserError(f"{name}: {key} has the shape {shapes}: they do not average")
