"""Finds norm (+ addition) (+ ReLU) in the graph of a module's code, and makes one call of each."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from suite.kernels.layers import FusedNorm

# Exact classes and functions: what is derived from them may do more.
_MODULES: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.ReLU6: "relu6"}
_FUNCTIONS: dict[Any, str] = {F.relu: "relu", torch.relu: "relu", torch.relu_: "relu", F.relu6: "relu6"}
_METHODS = {"relu": "relu", "relu_": "relu"}
_ADDITIONS = (operator.add, torch.add)
_ADDING_METHODS = ("add", "add_")


@dataclass(frozen=True)
class _Match:
    """A norm's call, with the addition and the activation behind it, either of which may be missing."""

    norm: fx.Node
    addition: fx.Node | None
    residual: fx.Node | None
    activation: fx.Node | None
    name: str

    @property
    def last(self) -> fx.Node:
        return self.activation or self.addition or self.norm

    @property
    def place(self) -> fx.Node:
        """The node in whose place the joint call is: the earliest at which all inputs are there."""
        return self.addition or self.norm


def merge_norms(
    graph: fx.Graph, module: nn.Module, call: Callable[..., Any], reached: Callable[..., Any]
) -> int:
    """Replace norms and what follows them by calls of `call`, in place. Return how many.

    `call` gets the norm, the activating module or None, the input, the residual or None, and the
    activation's name. A value that something else reads as well is left alone, and so is an addition onto
    another tensor in place, or one of a norm whose input others could change in between.
    """
    number = 0
    for node in list(graph.nodes):
        if not _is_norm(node, module) or (match := _match(node, module)) is None:
            continue
        x = node.args[0]
        with graph.inserting_before(node):
            norm = graph.get_attr(str(node.target))
            if match.addition is not None:
                x = graph.call_function(reached, (norm, x))
        with graph.inserting_before(match.place):
            act = None
            if match.activation is not None and match.activation.op == "call_module":
                act = graph.get_attr(str(match.activation.target))
            joint = graph.call_function(call, (norm, act, x, match.residual, match.name))
        match.last.replace_all_uses_with(joint)
        for old in (match.activation, match.addition, match.norm):
            if old is not None:
                graph.erase_node(old)
        number += 1
    return number


def _is_norm(node: fx.Node, module: nn.Module) -> bool:
    is_call = node.op == "call_module" and len(node.args) == 1 and not node.kwargs
    return is_call and isinstance(module.get_submodule(str(node.target)), FusedNorm)


def _match(norm: fx.Node, module: nn.Module) -> _Match | None:
    addition, residual, last = None, None, norm
    user = _only_user(norm)
    if user is not None and (other := _added(user, norm)) is not None and _only_user(norm.args[0]) is norm:
        addition, residual, last = user, other, user
    activation = _only_user(last)
    name = None if activation is None else _activation(activation, last, module)
    if name is None and addition is None:
        return None
    return _Match(norm, addition, residual, activation if name else None, name or "identity")


def _only_user(node: Any) -> fx.Node | None:
    return next(iter(node.users)) if isinstance(node, fx.Node) and len(node.users) == 1 else None


def _added(node: fx.Node, norm: fx.Node) -> fx.Node | None:
    """Return what `node` adds to the norm's output, where it does that and no more."""
    first_only = node.op == "call_function" and node.target is operator.iadd
    first_only |= node.op == "call_method" and node.target in _ADDING_METHODS
    if not first_only and not (node.op == "call_function" and node.target in _ADDITIONS):
        return None
    if len(node.args) != 2 or node.kwargs:
        return None
    one, other = node.args
    if one is not norm:
        if first_only:  # it may change the other tensor in place
            return None
        one, other = other, one
    return other if isinstance(other, fx.Node) and other is not norm else None


def _activation(node: fx.Node, last: fx.Node, module: nn.Module) -> str | None:
    if node.args != (last,) or set(node.kwargs) - {"inplace"}:
        return None
    if node.op == "call_module":
        return _MODULES.get(type(module.get_submodule(str(node.target))))
    if node.op == "call_function":
        return _FUNCTIONS.get(node.target)
    return _METHODS.get(str(node.target)) if node.op == "call_method" else None
