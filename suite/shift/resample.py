"""Sampling errors of what is computed from a pass, by leaving out or drawing anew groups of its batches.

Channels share images, so their errors are not independent, and a formula that sums them has the wrong size.
Batches are independent draws, if they are mixed: whatever is computed from all of them is computed again
from some of them. Shape suffixes: G groups, R resamples, C channels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from suite.shift.moments import ChannelMoments

RESAMPLES = 200
_SEED = 0


@dataclass(frozen=True)
class GroupMoments:
    """Moments of a layer's input by group of batches: counts (G,), means and squares (G, C), float64."""

    count_G: Tensor
    mean_GC: Tensor
    squares_GC: Tensor

    @classmethod
    def of(cls, groups: Sequence[ChannelMoments]) -> "GroupMoments":
        """Stack the moments of all groups, also of empty ones."""
        counts = torch.tensor([float(one.count) for one in groups], dtype=torch.float64)
        means, squares = (
            torch.stack([getattr(one, name) for one in groups]) for name in ("mean_C", "squares_C")
        )
        return cls(counts.to(means.device), means, squares)

    @cached_property
    def share_G(self) -> Tensor:
        """Each group's share of all values, (G,)."""
        return self.count_G / self.count_G.sum()

    def share_of(self, weight_G: Tensor) -> Tensor:
        """Return each group's share, (G,), when it counts `weight_G` times."""
        weighted_G = weight_G.to(self.count_G) * self.count_G
        return weighted_G / weighted_G.sum()

    def weighted(self, weight_RG: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and biased variance, each (R, C), with each group counted `weight_RG` (R, G) times.

        NaN where no group is left. The deviations are taken from the mean over all groups, so that a large
        mean costs no digits.
        """
        centre_C = self.share_G @ self.mean_GC
        away_GC = self.mean_GC - centre_C
        weight_RG = weight_RG.to(self.mean_GC) * self.count_G
        weight_RG = weight_RG / weight_RG.sum(dim=1, keepdim=True)
        mean_RC = weight_RG @ away_GC
        each_GC = self.squares_GC / self.count_G.clamp(min=1).unsqueeze(1) + away_GC.square()
        return centre_C + mean_RC, (weight_RG @ each_GC - mean_RC.square()).clamp(min=0)

    def errors(self) -> tuple[Tensor, Tensor]:
        """Return the standard errors of mean and standard deviation, each (C,)."""
        num_groups = len(self.count_G)
        weight_RG = torch.cat([torch.ones(1, num_groups, dtype=torch.float64), all_but_one(num_groups)])
        mean_RC, var_RC = self.weighted(weight_RG)
        mu_C, sigma_C = (
            jackknife_errors(value_RC[0], value_RC[1:], self.share_G) for value_RC in (mean_RC, var_RC.sqrt())
        )
        return mu_C, sigma_C


def all_but_one(num_groups: int) -> Tensor:
    """Return the weights of the resamples that leave out one group each, (G, G)."""
    return 1 - torch.eye(num_groups, dtype=torch.float64)


def drawn_anew(is_used_G: Tensor, resamples: int = RESAMPLES) -> Tensor:
    """Return the weights of bootstrap resamples of the used groups, (R, G); the same at every call."""
    generator = torch.Generator().manual_seed(_SEED)
    used_U = is_used_G.cpu().nonzero().squeeze(1)
    drawn_RU = used_U[torch.randint(len(used_U), (resamples, len(used_U)), generator=generator)]
    return torch.nn.functional.one_hot(drawn_RU, len(is_used_G)).sum(dim=1).double()


def jackknife_errors(whole_X: Tensor, without_GX: Tensor, share_G: Tensor) -> Tensor:
    """Return the standard errors of numbers (X,) by leaving out one group of batches at a time.

    `whole_X`: the numbers from all groups; `without_GX`: without each of them, (G, X); `share_G`: the groups'
    shares of the images, (G,). Groups of no share are ignored; with fewer than two others all are NaN.
    Source: the jackknife for groups of unequal size (Busing, Meijer and van der Leeden 1999).
    """
    used_G = share_G > 0
    share_G1, without_GX = share_G[used_G].unsqueeze(1), without_GX[used_G]
    num_groups = len(without_GX)
    if num_groups < 2:
        return torch.full_like(whole_X, math.nan)
    pseudo_GX = (whole_X - (1 - share_G1) * without_GX) / share_G1
    centre_X = num_groups * whole_X - ((1 - share_G1) * without_GX).sum(dim=0)
    return ((pseudo_GX - centre_X).square() * share_G1 / (1 - share_G1)).mean(dim=0).sqrt()


def jackknife_error(whole: float, without_G: Tensor, share_G: Tensor) -> float:
    """Return `jackknife_errors` of a single number, whose values without each group are `without_G`, (G,)."""
    whole_1 = torch.tensor([whole], dtype=torch.float64, device=without_G.device)
    return float(jackknife_errors(whole_1, without_G.unsqueeze(1), share_G.to(without_G.device)))
