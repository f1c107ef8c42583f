"""Averages of a run's weights over its training: exponential (EMA), and over the ends of epochs (SWA).

Training reads neither: a run with averages has the same weights as one without. Both are torch's
AveragedModel. EMA averages BN's estimates like the weights; SWA takes over those of the last network, which
belong to other weights (Izmailov et al. 2018 re-estimate them, and so does the epoch's end).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from suite.metrics import AVERAGES, Weights
from suite.specs.recipe import RecipeSpec


@dataclass(frozen=True)
class Kind:
    """An average: whether a recipe asks for it, how it is made, and after which steps it takes the weights.

    `is_due` gets the recipe, the number of whole epochs that have passed, and the steps since then.
    """

    is_wanted: Callable[[RecipeSpec], bool]
    make: Callable[[nn.Module, RecipeSpec], AveragedModel]
    is_due: Callable[[RecipeSpec, int, int], bool]


class _Ema(AveragedModel):
    """torch's, whose own update copies the number of steps to a GPU for each type of tensor, and waits."""

    def __init__(self, model: nn.Module, recipe: RecipeSpec) -> None:
        assert recipe.ema_decay is not None
        average = get_ema_multi_avg_fn(recipe.ema_decay)  # type: ignore[no-untyped-call]
        super().__init__(model, multi_avg_fn=average, use_buffers=True)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        averaged, newest = ([*network.parameters(), *network.buffers()] for network in (self.module, model))
        is_first = not int(self.n_averaged)  # on the CPU
        by_dtype = dict[torch.dtype, tuple[list[Tensor], list[Tensor]]]()
        for own, new in zip(averaged, newest, strict=True):
            # A count of batches is no average: it would be rounded down at each step.
            if is_first or not own.is_floating_point():
                own.detach().copy_(new)
            else:
                olds, news = by_dtype.setdefault(own.dtype, ([], []))
                olds.append(own.detach())
                news.append(new.detach())
        for olds, news in by_dtype.values():
            self.multi_avg_fn(olds, news, 0)  # type: ignore[misc]
        self.n_averaged += 1


KINDS: dict[Weights, Kind] = {
    "ema": Kind(lambda recipe: recipe.ema_decay is not None, _Ema, lambda *_: True),
    "swa": Kind(
        lambda recipe: recipe.swa is not None,
        lambda model, _: AveragedModel(model),
        lambda recipe, epochs, rest: rest == 0 and epochs > recipe.swa_start_epoch,
    ),
}


class WeightAverages:
    """The averages that a run's recipe asks for, of the weights of `model` as `update` sees them.

    `prepared` is what the run does to the model itself before it trains it: copies are made of `model`
    beforehand, since a layer that holds a process group cannot be copied.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: RecipeSpec,
        steps_per_epoch: int,
        prepared: Callable[[nn.Module], nn.Module],
    ) -> None:
        self._recipe, self._steps_per_epoch = recipe, steps_per_epoch
        wanted = [name for name in AVERAGES if KINDS[name].is_wanted(recipe)]
        self._models = {name: KINDS[name].make(model, recipe) for name in wanted}
        for averaged in self._models.values():
            averaged.module = prepared(averaged.module)

    @property
    def networks(self) -> dict[Weights, nn.Module]:
        """The averaged networks, by name; without those that have averaged nothing yet."""
        return {name: one.module for name, one in self._models.items() if int(one.n_averaged)}

    def update(self, model: nn.Module, step: int) -> None:
        """Take the weights after `step` optimizer steps into the averages that are due."""
        epochs, rest = divmod(step, self._steps_per_epoch)
        for name, averaged in self._models.items():
            if KINDS[name].is_due(self._recipe, epochs, rest):
                averaged.update_parameters(model)

    def state(self) -> dict[str, Any]:
        """Return each average's state dict for a checkpoint, or None where it has averaged nothing yet."""
        return {n: one.state_dict() if int(one.n_averaged) else None for n, one in self._models.items()}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned, among other keys."""
        for name, averaged in self._models.items():
            if (saved := state.get(name)) is not None:
                averaged.load_state_dict(saved)
