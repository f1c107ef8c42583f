"""Finds calls of F.batch_norm in a forward pass, also those with statistics that belong to no BN layer.

Frozen norms of one's own are often written like that: buffers of any name, and F.batch_norm with them.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from suite.shift.layers import owner_of

# Takes a name, statistics as a layer that normalises with constants, and the input (N, C, *) that it got.
Found = Callable[[str, nn.Module, Tensor], None]
UNNAMED = "F.batch_norm"
UNNAMED_WHY = (
    "called with statistics that are no buffers of the network, such as copies made in `forward`, and cannot "
    "be measured: keep them in buffers, or use nn.BatchNorm"
)


def _torch_batch_norm(  # the signature of torch.batch_norm, which `inspect` cannot read
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> None: ...


_SIGNATURES = {
    F.batch_norm: inspect.signature(F.batch_norm),
    torch.batch_norm: inspect.signature(_torch_batch_norm),
    torch.native_batch_norm: inspect.signature(_torch_batch_norm),
}


class Constants(nn.Module):
    """The statistics (C,) with which F.batch_norm is called, in the form of a layer. It computes nothing."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, mean_C: Tensor, var_C: Tensor, eps: float) -> None:
        super().__init__()
        self.register_buffer("running_mean", mean_C)
        self.register_buffer("running_var", var_C)
        self.eps = eps
        self.eval()


class BatchNormCalls(TorchFunctionMode):
    """While it is active, notes the running means with which F.batch_norm or torch.batch_norm is called.

    `found` is called for each call in inference mode whose statistics are buffers or parameters of `model`
    and none of the layers `known`. `layers`: those statistics by name; `num_unnamed`: how many calls had
    statistics that are nowhere in the network.
    """

    def __init__(self, model: nn.Module, known: list[nn.Module], found: Found) -> None:
        super().__init__()
        self.running_means: list[Any] = []
        self.layers: dict[str, Constants] = {}
        self.num_unnamed = 0
        self._found = found
        self._known = {id(getattr(layer, "running_mean", None)) for layer in known}
        self._names = {
            id(tensor): owner_of(name)
            for named in (model.named_buffers(), model.named_parameters())
            for name, tensor in named
        }

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if (signature := _SIGNATURES.get(func)) is not None:
            self._note(signature.bind(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))

    def _note(self, bound: inspect.BoundArguments) -> None:
        bound.apply_defaults()
        call = bound.arguments
        mean_C, var_C = call["running_mean"], call["running_var"]
        self.running_means.append(mean_C)
        if call["training"] or mean_C is None or var_C is None or id(mean_C) in self._known:
            return
        name = self._names.get(id(mean_C))
        if name is None:
            self.num_unnamed += 1
            return
        if name not in self.layers:
            self.layers[name] = Constants(mean_C, var_C, call["eps"])
        self._found(name, self.layers[name], call["input"])
