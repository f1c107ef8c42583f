"""XBN as a transformation: replaces chosen norm sites of a network.

The models are torchvision's. A *site* is a batch norm with a role in its block:

    role         ResNet, ResNeXt                MobileNetV2            ShuffleNetV2
    stem         bn1                            features.0             conv1
    p1           bn1 of a block                 expansion              first 1×1 of the main branch
    p2           bn2 (basic block: bn1)         depthwise              depthwise, main branch and projection
    p3           bn3 (basic block: bn2)         projection             last 1×1 of the main branch
    downsample   downsample                     -                      last 1×1 of the projection
    other        -                              last 1×1               conv5

In a basic block p1 and p2 are one site. In an MLP the layers come in pairs of p1 and p2. The table follows
the released code; see docs/design.md.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from suite.errors import UserError
from suite.experiment import BatchFreeSpec, BatchNormSpec, NormSpec, XbnSpec
from suite.models.batch_free import batch_free_norm
from suite.specs.base import Spec
from suite.wording import explain


@dataclass(frozen=True)
class NormSite:
    """A batch norm of a network: its module name, its roles, its channels."""

    name: str
    roles: frozenset[str]
    num_channels: int


def norm_sites(model: nn.Module) -> list[NormSite]:
    """Return every batch norm of a torchvision or timm residual network, in definition order, with its roles.

    Raises UserError when the network's blocks are of no known layout.
    """
    roles: dict[str, frozenset[str]] = {}
    for name, module in model.named_modules():
        for child, child_roles in _block_roles(module, is_root=name == ""):
            roles.setdefault(f"{name}.{child}".lstrip("."), frozenset(child_roles))
    norms = _batch_norms(model)
    if not any("p2" in r for n, r in roles.items() if n in norms):
        layouts = "(ResNet, RegNet, MobileNet, EfficientNet, ShuffleNetV2)"
        none = f"{type(model).__name__}: no block of a known layout {layouts} with BatchNorm2d in it"
        raise UserError(f"{none}; give `sites`, the names of the norms to convert")
    return [NormSite(n, roles.get(n, frozenset({"other"})), m.num_features) for n, m in norms.items()]


def convert(
    model: nn.Module, norm: NormSpec | dict[str, Any] | str, sites: list[str] | None = None
) -> nn.Module:
    """Replace norms in place, as `norm` specifies, and return the model.

    `norm` may also be a mapping, such as {"kind": "xbn", "position": "p2"}, or its kind alone.

    Works on any torchvision or timm residual network; for another one, name the modules in `sites`. If
    `num_groups` and `stem` are null, they are as released for ResNets: 64 groups (32 everywhere), and only a
    ResNet's stem. New norms have fresh parameters of the old norm's device, type, mode and `requires_grad`,
    and none where the old norm had none. Raises UserError, with the model as it was, for a norm that is
    none, an unknown layout or site, a network without batch norms, and groups that do not divide the
    channels.
    """
    norm = norm_spec(norm)
    if isinstance(norm, BatchNormSpec):
        return model
    norm = _as_released(model, norm)
    norms = _batch_norms(model)
    if not norms and sites is None:
        raise UserError(f"{type(model).__name__} has no batch norm that could be replaced")
    found = {}
    for name in _chosen(model, norm) if sites is None else sites:
        if name not in norms:
            raise UserError(f"{name!r} is not a batch norm of the model; valid: {', '.join(norms)}")
        found[name] = _replacement(norms[name], norm, name)
    for name, new in found.items():  # all of them, or none
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new)
    return model


def norm_spec(norm: NormSpec | dict[str, Any] | str) -> NormSpec:
    """Return a norm that is given as a spec, as its mapping, or as its kind. Raises UserError."""
    if not isinstance(norm, str | dict):
        return norm
    try:
        return _Norm.model_validate({"norm": norm}).norm
    except ValidationError as error:
        raise UserError(explain(error, _Norm)) from None


class _Norm(Spec):
    norm: NormSpec


def _replacement(old: _BatchNorm, norm: XbnSpec | BatchFreeSpec, name: str) -> nn.Module:
    """Return the batch-free norm for one site. Raises UserError when its groups do not fit."""
    bfn = norm.bfn if isinstance(norm, XbnSpec) else norm.kind
    try:
        new = batch_free_norm(bfn, old.num_features, norm.num_groups, old.affine)
    except ValueError as error:
        raise UserError(f"norm.num_groups at {name}: {error}") from None
    if isinstance(new, nn.InstanceNorm2d) and isinstance(old, nn.BatchNorm1d | nn.BatchNorm3d):
        new = nn.GroupNorm(old.num_features, old.num_features, affine=False)  # the same, with any pixels
    example = next((t for t in old.state_dict().values() if t.is_floating_point()), torch.empty(0))
    # timm's BatchNormAct2d is a BatchNorm2d with `drop` and `act`, which are kept.
    rest = [m for child, m in old.named_children() if child in ("drop", "act")]
    new = new.to(example.device, example.dtype).train(old.training)
    if old.affine:
        new.requires_grad_(old.weight.requires_grad)
    return nn.Sequential(new, *rest).train(old.training) if rest else new


def _as_released(model: nn.Module, norm: XbnSpec | BatchFreeSpec) -> XbnSpec | BatchFreeSpec:
    """Return the spec with its nulls filled, for a network whose name is unknown."""
    update: dict[str, object] = {}
    if norm.num_groups is None:
        update["num_groups"] = 64 if isinstance(norm, XbnSpec) else 32
    if isinstance(norm, XbnSpec) and norm.stem is None:
        resnet_block = {"conv1", "bn1", "conv2", "bn2"}
        update["stem"] = any(resnet_block <= dict(m.named_children()).keys() for m in model.modules())
    return norm.model_copy(update=update)


def _batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}


def _chosen(model: nn.Module, norm: XbnSpec | BatchFreeSpec) -> list[str]:
    if isinstance(norm, BatchFreeSpec):
        return list(_batch_norms(model))
    extras = {"stem": norm.stem, "downsample": norm.downsample}
    wanted = {norm.position, *(role for role, is_wanted in extras.items() if is_wanted)}
    sites = norm_sites(model)
    if (stages := norm.stages) is not None:
        if unknown := set(stages) - {_stage(site) for site in sites}:
            first = min(unknown)
            raise UserError(f"norm.stages: {type(model).__name__} has no stage {first} (layer{first})")
        sites = [site for site in sites if "stem" in site.roles or _stage(site) in stages]
    return [site.name for site in sites if site.roles & wanted]


def _stage(site: NormSite) -> int | None:
    """Return the stage of a site in a ResNet, from 1; None for the stem and in other networks."""
    found = re.match(r"layer(\d+)\.", site.name)
    return int(found[1]) if found else None


def _block_roles(module: nn.Module, is_root: bool) -> Iterator[tuple[str, set[str]]]:
    """Yield names (relative to `module`) and roles of the norms that a known layout defines."""
    children = dict(module.named_children())
    if is_root:
        stems = ("bn1" if "bn1" in children else "conv1.1", "features.0.1", "stem.1", "stem.bn")
        yield from ((stem, {"stem"}) for stem in stems)
    elif {"conv1", "bn1", "conv2", "bn2"} <= set(children):
        bottleneck = "bn3" in children
        yield "bn1", {"p1"} if bottleneck else {"p1", "p2"}
        yield "bn2", {"p2"} if bottleneck else {"p3"}
        yield "bn3", {"p3"}
    elif {"linear1", "bn1", "linear2", "bn2"} <= set(children):  # our MLP's
        yield from (("bn1", {"p1"}), ("bn2", {"p2"}))
    elif {"conv1", "conv2", "conv3"} <= set(children):  # timm's RegNet
        yield from ((f"conv{i}.bn", {f"p{i}"}) for i in (1, 2, 3))
    elif {"a", "b", "c"} <= set(children):  # torchvision's RegNet
        yield from ((f"{name}.1", {role}) for name, role in (("a", "p1"), ("b", "p2"), ("c", "p3")))
    elif "conv_dw" in children:  # timm's mobile blocks
        yield from _inverted_bottleneck_roles(module, "", shortcut=False)
    elif "branch2" in children:
        yield from _inverted_bottleneck_roles(children["branch2"], "branch2.", shortcut=False)
        yield from _inverted_bottleneck_roles(children["branch1"], "branch1.", shortcut=True)
    else:
        for name in ("conv", "block"):  # torchvision's MobileNets and EfficientNets
            if isinstance(children.get(name), nn.Sequential) and _has_depthwise(children[name]):
                yield from _inverted_bottleneck_roles(children[name], f"{name}.", shortcut=False)
    for shortcut in ("downsample", "proj"):
        for name, child in children.get(shortcut, nn.Identity()).named_modules():
            if isinstance(child, nn.BatchNorm2d):
                yield f"{shortcut}.{name}", {"downsample"}


def _has_depthwise(module: nn.Module) -> bool:
    return any(isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 for m in module.modules())


def _inverted_bottleneck_roles(
    branch: nn.Module, prefix: str, shortcut: bool
) -> Iterator[tuple[str, set[str]]]:
    """Yield p1, p2, p3: norms before, directly after, and further behind the depthwise convolution."""
    seen_depthwise, last_is_depthwise = False, False
    for name, module in branch.named_modules():
        if isinstance(module, nn.Conv2d):
            last_is_depthwise = module.groups == module.in_channels > 1
            seen_depthwise |= last_is_depthwise
        elif isinstance(module, nn.BatchNorm2d):
            role = "p2" if last_is_depthwise else "p3" if seen_depthwise else "p1"
            yield f"{prefix}{name}", {"downsample" if shortcut and role != "p2" else role}
