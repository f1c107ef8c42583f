"""Folds batch norms into the layers before them, as networks are deployed, and notes what was frozen in.

A BN layer in inference mode is an affine map by channel, γ (x − μ̃) / √(σ̃² + ε) + β. A convolution or linear
layer before it can take over its scale and shift. From then on the estimates μ̃, σ̃² are part of the weights
and cannot be re-estimated. RepVGG's blocks and others of timm are re-parameterised first: their branches,
with their norms, become one convolution.
"""

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from suite.errors import UserError
from suite.shift.layers import batch_norm_layers, estimates, frozen_layers
from suite.shift.precise import Statistics

PURPOSE = "fold"
# By exact type: a subclass may do more with its weights, such as standardising them. True: the outputs are
# the second axis of the weight, not the first.
FOLDABLE: dict[type[nn.Module], bool] = {
    nn.Linear: False,
    nn.Conv1d: False,
    nn.Conv2d: False,
    nn.Conv3d: False,
    nn.ConvTranspose1d: True,
    nn.ConvTranspose2d: True,
    nn.ConvTranspose3d: True,
}
NO_STATISTICS = "keeps no running statistics, and so normalises with each batch"
UNKNOWN = "its class may do more than normalise"
NOT_BEHIND = "its input is not the output of one convolution or linear layer that nothing else uses"
NOT_TRACED = "torch.fx cannot trace the module that calls it"
# What tracing raises for code whose path depends on the data or on Python's own values.
_UNTRACEABLE = (
    *(fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError),
    *(IndexError, KeyError, AssertionError),
)


@dataclass(frozen=True)
class Folded:
    """A network in inference mode without the norms that could be folded.

    `statistics`: mean and variance (C,) of each folded norm, by its former name; `into`: the layer or block
    that took it over. `left`: the norms that stay, and why.
    """

    network: nn.Module
    statistics: Statistics
    into: Mapping[str, str]
    left: Mapping[str, str]


def fold_batch_norms(model: nn.Module) -> Folded:
    """Return a copy of `model` whose batch norms are folded into the layers before them.

    The copy is in inference mode and gives the same outputs as `model` does there, up to rounding; `model`
    stays as it is. Blocks of timm that it can re-parameterise (RepVGG, MobileOne, …) become one convolution.
    Layers that normalise with constants (FrozenBatchNorm2d) are folded too. Activations within a norm (timm's
    BatchNormAct2d) stay. A norm folds if torch.fx sees that its input is the output of one convolution or
    linear layer that nothing else uses. Raises UserError for a network without BN, and for one of which no
    norm folds, with the first reason.
    """
    before = _norms(model)
    if not before:
        raise UserError(f"{PURPOSE}: {type(model).__name__} has no BN layer, so there is nothing to fold")
    statistics = {
        name: (mean_C.clone(), var_C.clone())
        for name, norm in before.items()
        if norm.running_var is not None
        for mean_C, var_C in [estimates(norm)]
    }
    network = _reparameterised(copy.deepcopy(getattr(model, "_orig_mod", model)).eval())
    modules = dict(network.named_modules())
    into = {name: _nearest(name, modules) for name in before if name not in _norms(network)}
    left: dict[str, str] = {}
    for norm, layer in _foldable_pairs(network, left):
        _fold(modules[layer], modules[norm])
        _replace(network, norm, modules[norm])
        into[norm] = layer
    reasons = {name: _why_left(norm) or left.get(name, NOT_BEHIND) for name, norm in _norms(network).items()}
    if not into:
        name, why = next(iter(reasons.items()))
        raise UserError(f"{PURPOSE}: none of the {len(before)} BN layers can be folded; {name}: {why}")
    return Folded(network, {name: statistics[name] for name in before if name in into}, into, reasons)


def _norms(model: nn.Module) -> dict[str, nn.Module]:
    return {**batch_norm_layers(model), **frozen_layers(model)}


def _why_left(norm: nn.Module) -> str | None:
    """Return why a norm cannot be folded wherever it is, or None."""
    from suite.models.batch_norm import AFTERWARDS, CrossRankBatchNorm2d, GhostBatchNorm2d

    plain = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    is_known = type(norm) in (*plain, CrossRankBatchNorm2d, GhostBatchNorm2d)
    is_timms = isinstance(norm, plain) and set(dict(norm.named_children())) == set(AFTERWARDS)
    if not is_known and not is_timms and "FrozenBatchNorm" not in type(norm).__name__:
        return UNKNOWN
    return NO_STATISTICS if norm.running_var is None else None


def _reparameterised(network: nn.Module) -> nn.Module:
    """Re-parameterise timm's blocks, in place. What `fuse` means elsewhere is not known."""
    methods = ("fuse", "reparameterize", "switch_to_deploy")
    blocks = [m for m in network.modules() if any(hasattr(m, method) for method in methods)]
    if not blocks or not all(type(block).__module__.startswith("timm.") for block in blocks):
        return network
    from timm.utils.model import reparameterize_model

    with torch.no_grad():
        changed: nn.Module = reparameterize_model(network, inplace=True)
    return changed.eval()


def _nearest(name: str, modules: Mapping[str, nn.Module]) -> str:
    """Return the innermost module that still exists where the module `name` was."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


class _Tracer(fx.Tracer):
    """Traces up to norms and layers, whatever library they are from. `norms`: their names."""

    def __init__(self, norms: Collection[str]) -> None:
        super().__init__()
        self.norms = norms

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        is_known = type(m) in FOLDABLE or module_qualified_name in self.norms
        return is_known or super().is_leaf_module(m, module_qualified_name)


def _foldable_pairs(network: nn.Module, left: dict[str, str]) -> list[tuple[str, str]]:
    """Return (norm, layer) by name, each once. Enters into `left` the norms that tracing does not reach."""
    num_names: dict[int, int] = {}
    for _, module in network.named_modules(remove_duplicate=False):
        num_names[id(module)] = num_names.get(id(module), 0) + 1
    modules = dict(network.named_modules())
    return [
        (norm, layer)
        for norm, layer in _pairs_below("", network, left)
        if num_names[id(modules[norm])] == num_names[id(modules[layer])] == 1
    ]


def _pairs_below(prefix: str, module: nn.Module, left: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the pairs within a module; where it cannot be traced, within each of its children."""
    norms = _norms(module)
    if not norms:
        return
    if type(module) in FOLDABLE or "" in norms:
        left[prefix] = NOT_TRACED
        return
    try:
        graph = _Tracer(norms).trace(module)
    except _UNTRACEABLE:
        for name, child in module.named_children():
            yield from _pairs_below(f"{prefix}.{name}" if prefix else name, child, left)
        return
    lead = f"{prefix}." if prefix else ""
    for norm, layer in _pairs_in(graph, dict(module.named_modules()), norms):
        yield f"{lead}{norm}", f"{lead}{layer}"


def _pairs_in(
    graph: fx.Graph, modules: Mapping[str, nn.Module], norms: Mapping[str, nn.Module]
) -> Iterator[tuple[str, str]]:
    calls: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
    for node in graph.nodes:
        if node.op != "call_module" or node.target not in norms or not node.args:
            continue
        source = node.args[0]
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
            continue
        norm, layer = str(node.target), str(source.target)
        is_once = calls[norm] == calls[layer] == 1
        if is_once and _folds(modules[layer], modules[norm]):
            yield norm, layer


def _folds(layer: nn.Module, norm: nn.Module) -> bool:
    """Return whether the layer's weights can take over the norm."""
    if type(layer) not in FOLDABLE or _why_left(norm) is not None:
        return False
    hooks = (m._forward_hooks or m._forward_pre_hooks for m in (layer, norm))
    is_grouped = FOLDABLE[type(layer)] and getattr(layer, "groups", 1) != 1
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    width = weight.shape[1 if FOLDABLE[type(layer)] else 0]
    return not any(hooks) and not is_grouped and width == len(estimates(norm)[0])


@torch.no_grad()
def _fold(layer: nn.Module, norm: nn.Module) -> None:
    """Let the layer's weight and bias take over the norm, computed in float64."""
    mean_C, var_C = (value_C.double() for value_C in estimates(norm))
    affine = [getattr(norm, name, None) for name in ("weight", "bias")]
    gamma_C, beta_C = (None if value is None else value.detach().double() for value in affine)
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, nn.Parameter)
    assert bias is None or isinstance(bias, nn.Parameter)
    folded, shift = fuse_conv_bn_weights(
        weight.double(),
        None if bias is None else bias.double(),
        mean_C,
        var_C,
        float(getattr(norm, "eps", 1e-5)),
        gamma_C,
        beta_C,
        transpose=FOLDABLE[type(layer)],
    )
    layer.weight = nn.Parameter(folded.to(weight.dtype), weight.requires_grad)
    layer.bias = nn.Parameter(shift.to(weight.dtype), weight.requires_grad)


def _replace(network: nn.Module, name: str, norm: nn.Module) -> None:
    """Put in a norm's place what it does behind its normalisation: timm's activation, or nothing."""
    from suite.models.batch_norm import AFTERWARDS

    behind = [child for key in AFTERWARDS if (child := norm._modules.get(key)) is not None]
    parent, _, own = name.rpartition(".")
    new: nn.Module = nn.Sequential(*behind) if behind else nn.Identity()
    setattr(network.get_submodule(parent), own, new.eval())
