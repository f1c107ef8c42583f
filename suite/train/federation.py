"""Federated averaging in one process (McMahan et al. 2017): the clients of a round train in turn.

Each begins with the server's network and a fresh optimizer. At the end of a round the server takes the mean
of the clients' weights, as they have equal numbers of images. What it makes of their BN layers is
`recipe.federated.norms`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from suite.shift.layers import batch_norm_layers, is_bias_corrected
from suite.specs.federated import CLIENT_NORMS, FederatedSpec

State = dict[str, Tensor]


class Federation:
    """The server and the clients, which take turns in training `model` with `optimizer`."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, spec: FederatedSpec) -> None:
        self.spec = spec
        self._norms_policy = CLIENT_NORMS[spec.norms]
        self._model, self._optimizer = model, optimizer
        self._layers = batch_norm_layers(model)
        self._of_norms = {
            f"{name}.{key}" for name, layer in self._layers.items() for key in layer.state_dict()
        }
        self._server = _copied(model.state_dict())
        self._sum: State = {}
        own = {name: value for name, value in self._server.items() if name in self._of_norms}
        self._norms = [_copied(own) for _ in range(spec.clients)]

    def begin_step(self, step: int) -> bool:
        """Give the model to the client whose turn begins with optimizer step `step`, counted from 0.

        Returns whether a turn begins, so that the model has changed.
        """
        turn, local_step = divmod(step, self.spec.local_steps)
        if local_step:
            return False
        self._model.load_state_dict(self._server)
        if self._norms_policy.keeps:
            self._put(self._norms[turn % self.spec.clients])
        self._optimizer.state.clear()
        return True

    def parallel_steps(self, step: int) -> int:
        """Return how many steps all clients have done together when a client begins `step`.

        As they would train in parallel: each client of a round has the same learning rates.
        """
        turn, local_step = divmod(step, self.spec.local_steps)
        own_step = turn // self.spec.clients * self.spec.local_steps + local_step
        return own_step * self.spec.clients

    def end_step(self, step: int) -> None:
        """Take the model from the client whose turn has ended after `step` steps.

        At a round's end all clients' are joined, and the model is the server's.
        """
        turn, rest = divmod(step, self.spec.local_steps)
        if rest:
            return
        client = (turn - 1) % self.spec.clients
        state = _copied(self._model.state_dict())
        self._norms[client] = {name: state[name] for name in self._of_norms}
        others = {name: value for name, value in state.items() if name not in self._of_norms}
        for name, value in others.items():
            self._sum[name] = value.double() if client == 0 else self._sum[name] + value.double()
        if client == self.spec.clients - 1:
            self._join()

    @contextmanager
    def as_client(self, client: int) -> Iterator[nn.Module]:
        """Let the model, which is the server's, be a client's: with its own BN layers where it keeps them."""
        if not self._norms_policy.keeps:
            yield self._model
            return
        self._put(self._norms[client])
        try:
            yield self._model
        finally:
            self._put(self._server)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the model and the optimizer."""
        return {"server": self._server, "sum": self._sum, "norms": self._norms}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        devices = {name: value.device for name, value in self._server.items()}

        def placed(saved: Mapping[str, Tensor]) -> State:
            return {name: value.to(devices[name]) for name, value in saved.items()}

        self._server, self._sum = placed(state["server"]), placed(state["sum"])
        self._norms = [placed(norms) for norms in state["norms"]]

    @torch.no_grad()
    def _join(self) -> None:
        joined = {name: total / self.spec.clients for name, total in self._sum.items()}
        joined |= joined_norms(self._norms, self._weights() if self._norms_policy.pools else None)
        self._server = {name: joined[name].to(value.dtype) for name, value in self._server.items()}
        self._model.load_state_dict(self._server)

    def _weights(self) -> dict[str, float]:
        """Return by layer the weight of a round's batches in a client's estimates."""
        counts = {name: f"{name}.num_batches_tracked" for name in self._layers}
        return {
            name: weight_of_newest(layer, int(self._server[counts[name]]), int(self._norms[0][counts[name]]))
            for name, layer in self._layers.items()
            if layer.num_batches_tracked is not None
        }

    def _put(self, norms: Mapping[str, Tensor]) -> None:
        """Replace the model's BN layers."""
        own = {name: norms[name] for name in self._of_norms}
        self._model.load_state_dict({**self._model.state_dict(), **own})


def joined_norms(
    clients: Sequence[Mapping[str, Tensor]], pooled_weights: Mapping[str, float] | None = None
) -> State:
    """Return the mean over clients of each tensor of their BN layers, in float64, by its name in the state.

    `pooled_weights`: by layer the weight w of the round's batches in the clients' estimates. The variance is
    then (1 − w) · the server's before + w · that of the mixture of the round's batches, E[σ² + μ²] − E[μ]².
    The clients' means differ by w times what their batches' means differ, so that var μ̃ₖ / w is added.
    """
    means = {name: torch.stack([one[name].double() for one in clients]).mean(dim=0) for name in clients[0]}
    for layer, weight in (pooled_weights or {}).items():
        mean_KC = torch.stack([one[f"{layer}.running_mean"].double() for one in clients])
        means[f"{layer}.running_var"] += mean_KC.var(dim=0, correction=0) / weight
    return means


def weight_of_newest(layer: _BatchNorm, before: int, after: int) -> float:
    """Return the weight of the batches from the count `before` to `after` in a layer's running averages."""
    if layer.momentum is None:
        return (after - before) / after
    left = (1 - layer.momentum) ** (after - before)
    if is_bias_corrected(layer):
        left *= (1 - (1 - layer.momentum) ** before) / (1 - (1 - layer.momentum) ** after)
    return 1 - left


def _copied(state: Mapping[str, Tensor]) -> State:
    return {name: value.detach().clone() for name, value in state.items()}
