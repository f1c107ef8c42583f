"""Fuses the norms of a network with what follows them: residual additions and ReLUs.

Norms change their class (`suite.kernels.layers`). A module that calls norms itself, such as a residual
block, gets a `forward` written by torch.fx from its own, in which norm (+ addition) (+ ReLU) are one call.
Its class is a subclass with the same name, so that names, parameters, state dicts, hooks, copies and
pickles are as before.
"""

import inspect
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from suite.kernels.layers import FusedNorm, applied, fuse_layer
from suite.kernels.patterns import merge_norms
from suite.models.batch_free import NORM_MODULES


@dataclass
class FusedNorms:
    """What `fuse_norms` did. `skipped`: why a norm stays as it was, or a module's code, by its name."""

    norms: list[str] = field(default_factory=list)
    merged: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """A sentence for a log and a record."""
        calls = f"{len(self.norms)} norms, {sum(self.merged.values())} with what follows them"
        reasons = dict.fromkeys(self.skipped.values())
        left = f"; {len(self.skipped)} left as they were ({'; '.join(reasons)})" if self.skipped else ""
        return calls + left


def fuse_norms(model: nn.Module) -> FusedNorms:
    """Let the norms of `model` compute with the fused kernels, in place. Return what was done.

    BN, ghost BN, GN, LN (as GN) and IN are fused; variants of BN, SyncBN and norms with layers of their own
    are not. ReLUs and residual additions behind a norm are computed with it where the module's code can be
    traced and does the same in all modes. The results agree with torch's to rounding, but the network has
    no second derivatives. Do it after all else that looks for norms by their exact class.
    """
    done = FusedNorms()
    for name, module in model.named_modules():
        if isinstance(module, FusedNorm):
            continue
        if isinstance(module, NORM_MODULES):
            why = fuse_layer(module)
            if why is None:
                done.norms.append(name)
            else:
                done.skipped[name] = why
    for name, module in model.named_modules():
        if not is_rewritten(module) and any(isinstance(child, FusedNorm) for child in module.children()):
            number, why = _rewrite(module)
            if why is not None:
                done.skipped[name or type(module).__name__] = why
            elif number:
                done.merged[name] = number
    return done


def is_rewritten(module: nn.Module) -> bool:
    """Return whether a module's `forward` is one that was written here."""
    return getattr(type(module), "_before_fusing", None) is not None


def call_fused(
    norm: nn.Module, act: nn.Module | None, x: Tensor, residual: Tensor | None, activation: str
) -> Tensor:
    """Return act(norm(x) + residual) in one call; step by step where a hook wants to see what is between.

    Also where the norm or the activation has been replaced since. `act`: the module that activates; None
    where a function does.
    """
    if isinstance(norm, FusedNorm) and not _is_watched(norm) and not _has_changed(act, activation):
        return norm(x, residual, activation)  # type: ignore[no-any-return]
    out = norm(x)
    if act is None:
        return applied(out, residual, activation)
    return act(out if residual is None else out + residual)  # type: ignore[no-any-return]


def _is_watched(norm: FusedNorm) -> bool:
    """Return whether a hook sees the norm's output, or may replace its arguments, among them the residual.

    The recorder's hook, which comes with `take_moments`, does neither.
    """
    foreign = len(norm._forward_pre_hooks) - (getattr(norm, "take_moments", None) is not None)
    return bool(foreign > 0 or norm._forward_hooks or norm._backward_hooks or norm._backward_pre_hooks)


def reached(norm: nn.Module, x: Tensor) -> Tensor:
    """Return x, where the module's own code calls a norm that now waits for a residual."""
    if (tell := getattr(norm, "when_reached", None)) is not None:
        tell()
    return x


def _has_changed(act: nn.Module | None, activation: str) -> bool:
    if act is None:
        return False
    hooks = (act._forward_hooks, act._forward_pre_hooks, act._backward_hooks, act._backward_pre_hooks)
    return type(act).__name__.lower() != activation or any(hooks)


# ------------------------------------------------------------ a module's code


class _Proxy(fx.Proxy):
    """A proxy that `isinstance` takes for a tensor in a module's code, and for a proxy in torch's."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        asking = sys._getframe(1).f_globals.get("__name__", "")
        return type(self) if asking.partition(".")[0] == "torch" else Tensor


class _Tracer(fx.Tracer):
    """Traces the code of one module: what it calls is left as it is."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


@contextmanager
def _in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    modes = {one: one.training for one in module.modules()}
    try:
        for one in modes:
            one.training = training
        with torch.set_grad_enabled(training):
            yield
    finally:
        for one, mode in modes.items():
            one.training = mode


def _traced(module: nn.Module, training: bool) -> fx.Graph:
    """Return the graph of a module's code in this mode. Raises whatever the code raises on fx's proxies."""
    before = dict(module.__dict__)
    try:
        with _in_mode(module, training):
            graph = _Tracer().trace(module)
        changed = [key for key in module.__dict__ if module.__dict__[key] is not before.get(key)]
        if set(changed) - {"training"}:
            raise ValueError(f"it sets {', '.join(changed)}")
        return graph
    finally:
        module.__dict__.clear()
        module.__dict__.update(before)


def _rewrite(module: nn.Module) -> tuple[int, str | None]:
    """Give a module code that calls fused norms. Return how many, and why it keeps its own code, or None."""
    kind = type(module)
    if kind.forward is nn.Module.forward:  # a list of modules
        return 0, None
    parameters = list(inspect.signature(kind.forward).parameters.values())[1:]
    if len(parameters) != 1 or parameters[0].kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
        return 0, f"the code of {kind.__name__} takes more than one input"
    try:
        graph = _traced(module, training=True)
        other = _traced(module, training=False)
    except Exception as error:  # of any kind: the code meets proxies where it expects tensors
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        return 0, f"the code of {kind.__name__} cannot be traced ({reason})"
    if not all(isinstance(node.args[0], fx.Node) for node in graph.nodes if node.op == "output"):
        return 0, f"the code of {kind.__name__} returns something else than one tensor"
    if str(graph) != str(other):
        return 0, f"the code of {kind.__name__} depends on the mode"
    number = merge_norms(graph, module, call_fused, reached)
    if number:
        module.__class__ = _with_forward(kind, graph, len(module._modules))
    return number, None


def _with_forward(kind: type[nn.Module], graph: fx.Graph, num_children: int) -> type[nn.Module]:
    """Return a subclass whose `forward` is the graph, for a tensor; for anything else its own.

    Also its own once it has more or fewer children, such as a Sequential to which one was appended.
    """
    graph.lint()
    code = graph.python_code("self")
    names = dict(code.globals)
    exec(code.src, names)  # what torch.fx wrote of the module's own code
    fused: Callable[[nn.Module, Tensor], Any] = names["forward"]

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        is_as_traced = len(args) == 1 and not kwargs and len(self._modules) == num_children
        if is_as_traced and isinstance(args[0], Tensor):
            return fused(self, args[0])
        return kind.forward(self, *args, **kwargs)

    members: dict[str, Any] = {"forward": forward, "_before_fusing": kind, "__reduce_ex__": _reduced}
    members |= {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    if issubclass(kind, nn.Sequential):  # a slice of it is not fused
        members["__getitem__"] = _item
    return type(kind.__name__, (kind,), members)


def _item(self: Any, index: int | slice) -> nn.Module:
    kind = type(self)._before_fusing
    if isinstance(index, slice):
        return nn.Sequential(OrderedDict(list(self._modules.items())[index]))
    item: nn.Module = kind.__getitem__(self, index)
    return item


def _reduced(self: Any, protocol: int) -> tuple[Any, ...]:
    """Copies and pickles hold the class before fusing, and write the code anew."""
    return _blank, (type(self)._before_fusing,), self.__getstate__()


def _blank(kind: type[nn.Module]) -> nn.Module:
    """Return a module without anything, which takes its state, and then writes its code."""

    def set_state(self: Any, state: dict[str, Any]) -> None:
        self.__class__ = kind
        self.__setstate__(state)
        _rewrite(self)

    unset: type[nn.Module] = type(kind.__name__, (kind,), {"__setstate__": set_state})
    return unset.__new__(unset)
