"""One set of BN's running averages, for evaluation and for checkpoints, where each rank has its own.

Training does not read them, so ranks may go on with their own ones meanwhile: norms whose training does (BRN
and MABN, `reads_estimates` in `suite.specs.norm_table`) are refused on several ranks. To add a rule, add a
class that satisfies `RankEstimates`, and an entry of `ESTIMATES` in `suite.specs.batch`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from suite.experiment import Run
from suite.shift.layers import batch_norm_layers, estimates
from suite.specs.batch import ESTIMATES
from suite.specs.choice import resolve
from suite.train.distributed import Ranks

State = Mapping[str, Tensor] | None
"""What a checkpoint needs beside the run's estimates."""


class RankEstimates(Protocol):
    """What a run's ranks make of their estimates in `networks`. Every rank calls each method."""

    def __init__(self, ranks: Ranks, networks: Callable[[], Mapping[str, nn.Module]]) -> None:
        """`networks` returns the trained network and its averages, as far as there are any, by name."""

    def evaluated(self) -> AbstractContextManager[None]:
        """Return the context in which the networks have the run's estimates, on every rank."""

    def saved(self) -> AbstractContextManager[State]:
        """Return the context in which the first rank's have them; it gives the rest of a checkpoint."""

    def load(self, state: State) -> None:
        """Continue from what `saved` gave, with networks that have the run's estimates."""


class FirstRank(RankEstimates):
    """The run's estimates are the first rank's. The others take them over when they are evaluated."""

    def __init__(self, ranks: Ranks, networks: Callable[[], Mapping[str, nn.Module]]) -> None:
        self._ranks, self._networks = ranks, networks

    def evaluated(self) -> AbstractContextManager[None]:
        for network in self._networks().values():
            self._ranks.share_buffers(network)
        return nullcontext()

    def saved(self) -> AbstractContextManager[State]:
        return nullcontext()

    def load(self, state: State) -> None:
        pass


class MeanOfRanks(RankEstimates):
    """The run's estimates are the means of all ranks' running means and of their running variances.

    Each rank gets its own back after an evaluation. So results do not depend on when a run is evaluated, and
    TID still sees the batches of one rank. A checkpoint has the means, and beside them each rank's own. As
    running averages are linear, a run that is resumed on another number of ranks goes on from the means.
    """

    def __init__(self, ranks: Ranks, networks: Callable[[], Mapping[str, nn.Module]]) -> None:
        self._ranks, self._networks = ranks, networks

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        networks = self._networks() if self._ranks.world_size > 1 else {}
        own = {name: _values(network) for name, network in networks.items()}
        for name, network in networks.items():
            # In float64, where the sum of equal float32 numbers is exact: their mean is the number itself.
            _put(network, self._ranks.sum(own[name].double()) / self._ranks.world_size)
        try:
            yield
        finally:
            for name, network in networks.items():
                _put(network, own[name])

    @contextmanager
    def saved(self) -> Iterator[State]:
        """As `evaluated`; gives every rank's own estimates by network, (R, D)."""
        own = {name: self._ranks.gather(_values(network)) for name, network in self._networks().items()}
        with self.evaluated():
            yield own

    def load(self, state: State) -> None:
        networks = self._networks()
        for name, values_RD in (state or {}).items():
            if len(values_RD) == self._ranks.world_size:
                _put(networks[name], values_RD[self._ranks.rank])


def rank_estimates(run: Run, ranks: Ranks, networks: Callable[[], Mapping[str, nn.Module]]) -> RankEstimates:
    """Return what the ranks of a run make of their estimates in `networks`; see `RankEstimates`."""
    rule: RankEstimates = resolve(ESTIMATES[run.batch.estimates].rule)(ranks, networks)
    return rule


def _buffers(network: nn.Module) -> list[Tensor]:
    layers = batch_norm_layers(network).values()
    return [one for layer in layers if layer.running_var is not None for one in estimates(layer)]


def _values(network: nn.Module) -> Tensor:
    """Return a copy of all running means and variances, (D,)."""
    return torch.cat(_buffers(network) or [torch.empty(0)])


@torch.no_grad()
def _put(network: nn.Module, values_D: Tensor) -> None:
    buffers = _buffers(network)
    for buffer_C, value_C in zip(buffers, torch.split(values_D, [*map(len, buffers)]), strict=True):
        buffer_C.copy_(value_C)
