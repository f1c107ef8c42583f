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

from suite.shift.layers import batch_norm_layers
from suite.specs.federated import CLIENT_NORMS, FederatedSpec

State = dict[str, Tensor]
_MEAN, _VAR = ".running_mean", ".running_var"


class Federation:
    """The server and the clients, which take turns in training `model` with `optimizer`."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, spec: FederatedSpec) -> None:
        self.spec = spec
        self._norms_policy = CLIENT_NORMS[spec.norms]
        self._model, self._optimizer = model, optimizer
        layers = batch_norm_layers(model)
        self._of_norms = {f"{name}.{key}" for name, layer in layers.items() for key in layer.state_dict()}
        self._server = _copied(model.state_dict())
        self._sum: State = {}
        own = {name: value for name, value in self._server.items() if name in self._of_norms}
        self._norms = [_copied(own) for _ in range(spec.clients)]

    def begin_step(self, step: int) -> None:
        """Give the model to the client whose turn begins with optimizer step `step`, counted from 0."""
        turn, local_step = divmod(step, self.spec.local_steps)
        if local_step == 0:
            self._model.load_state_dict(self._server)
            if self._norms_policy.keeps:
                self._put(self._norms[turn % self.spec.clients])
            self._optimizer.state.clear()

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
        joined |= joined_norms(self._norms, pools=self._norms_policy.pools)
        self._server = {name: joined[name].to(value.dtype) for name, value in self._server.items()}
        self._model.load_state_dict(self._server)

    def _put(self, norms: Mapping[str, Tensor]) -> None:
        """Replace the model's BN layers."""
        own = {name: norms[name] for name in self._of_norms}
        self._model.load_state_dict({**self._model.state_dict(), **own})


def joined_norms(clients: Sequence[Mapping[str, Tensor]], *, pools: bool) -> State:
    """Return the mean over clients of each tensor of their BN layers, in float64, by its name in the state.

    `pools`: each variance is that of the mixture of the clients, E[σ² + μ²] − E[μ]².
    """
    means = {name: torch.stack([one[name].double() for one in clients]).mean(dim=0) for name in clients[0]}
    if pools:
        for name in [name for name in means if name.endswith(_VAR)]:
            mean_KC = torch.stack([one[name.removesuffix(_VAR) + _MEAN].double() for one in clients])
            means[name] += mean_KC.var(dim=0, correction=0)
    return means


def _copied(state: Mapping[str, Tensor]) -> State:
    return {name: value.detach().clone() for name, value in state.items()}
