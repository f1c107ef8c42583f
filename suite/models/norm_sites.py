"""Finds the norm sites of a residual network: its batch norms and their roles in the blocks.

A *site* is a batch norm with a role in its block:

    role         ResNet, ResNeXt                MobileNetV2            ShuffleNetV2
    stem         bn1                            features.0             conv1
    p1           bn1 of a block                 expansion              first 1×1 of the main branch
    p2           bn2 (basic block: bn1)         depthwise              depthwise, main branch and projection
    p3           bn3 (basic block: bn2)         projection             last 1×1 of the main branch
    downsample   downsample                     -                      last 1×1 of the projection
    other        -                              last 1×1               conv5

In a basic block p1 and p2 are one site, and so they are in a fused block (EfficientNetV2), whose first
convolution both expands and mixes pixels. In an MLP the layers come in pairs of p1 and p2. The table follows
the released code; see docs/design.md. Blocks are recognised by the names and kinds of their children, at
any depth of the network: it may be wrapped, or a backbone. A norm of a block follows the convolution of its
number, so pre-activation blocks are of no known layout, and neither are stems and pairs of convolutions
whose input cannot be added to their output.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from suite.errors import UserError

LEAST_SHARE = 0.5  # of a network's batch norms, in blocks of a known layout
SHORTCUTS = ("downsample", "proj", "shortcut")
IN_A_BLOCK = frozenset({"p1", "p2", "p3", "downsample"})
Roles = Iterator[tuple[str, set[str]]]


@dataclass(frozen=True)
class NormSite:
    """A batch norm of a network: its module name, its roles, its channels."""

    name: str
    roles: frozenset[str]
    num_channels: int

    @property
    def stage(self) -> int | None:
        """The stage of a ResNet that the site is in, from 1; None for its stem and in other networks."""
        found = re.search(r"(?:^|\.)layer(\d+)\.", self.name)
        return int(found[1]) if found else None


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return every batch norm of a network by module name, in definition order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}


def replace_modules(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> None:
    """Put new modules in the places of others, in each of the places where one is used several times."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and child in new:
                setattr(parent, name, new[child])


def norm_sites(model: nn.Module) -> list[NormSite]:
    """Return every batch norm of a torchvision or timm residual network, in definition order, with its roles.

    Raises UserError when the network's blocks are of no known layout, or most of its batch norms outside of
    such blocks.
    """
    norms = batch_norms(model)
    roles: dict[str, frozenset[str]] = {}
    blocks = set()
    adding = {type(module) for module in model.modules() if _may_add_its_input(module)}
    for name, module in model.named_modules():
        is_inside = bool(name) and type(module) in adding
        found = {f"{name}.{child}": of for child, of in _block_roles(module)} if is_inside else {}
        if any("p2" in of and norm in norms for norm, of in found.items()):
            blocks.add(name)
            roles = {norm: frozenset(of) for norm, of in found.items()} | roles  # the outer block decides
    for name in {above for block in blocks for above in _above(block)} - blocks:
        container = model.get_submodule(name)
        for stem in _stems(container):
            roles.setdefault(f"{name}.{stem}".lstrip("."), frozenset({"stem"}))
    sites = [NormSite(n, roles.get(n, frozenset({"other"})), m.num_features) for n, m in norms.items()]
    inside = sum(bool(site.roles & IN_A_BLOCK) for site in sites)
    if not blocks or inside < LEAST_SHARE * len(sites):
        layouts = "(ResNet, RegNet, MobileNet, EfficientNet, ShuffleNetV2)"
        which = f"{inside} of its {len(sites)} batch norms are" if blocks else "none of its batch norms is"
        why = f"{which} in a block of a known layout {layouts}"
        raise UserError(f"{type(model).__name__}: {why}; give `sites`, the names of the norms to convert")
    return sites


def _above(name: str) -> Iterator[str]:
    """Yield the names of all modules that contain this one."""
    while name:
        name = name.rpartition(".")[0]
        yield name


def _stems(container: nn.Module) -> tuple[str, ...]:
    """Return where a network that holds blocks may have the norm of its stem; a deep stem's last one."""
    if "bn1" in dict(container.named_children()):
        return ("bn1",)
    return ("conv1.1", "features.0.1", "stem.1", "stem.bn", "stem.conv.bn", "stem.conv3.bn")


def _block_roles(module: nn.Module) -> Roles:
    """Yield names (relative to `module`) and roles of the norms that a known layout of a block defines."""
    children = dict(module.named_children())
    names = set(children)
    if {"conv1", "bn1", "conv2", "bn2"} <= names:
        bottleneck = "bn3" in names
        if not _norms_follow(children, "conv2" if bottleneck else "conv1"):
            return
        yield "bn1", {"p1"} if bottleneck else {"p1", "p2"}
        yield "bn2", {"p2"} if bottleneck else {"p3"}
        yield "bn3", {"p3"}
    elif {"linear1", "bn1", "linear2", "bn2"} <= names:  # our MLP's
        yield from (("bn1", {"p1"}), ("bn2", {"p2"}))
    elif {"conv1", "conv2", "conv3", "act3"} <= names:  # timm's RegNet; a deep stem has no act3
        yield from ((f"conv{i}.bn", {f"p{i}"}) for i in (1, 2, 3))
    elif {"a", "b", "c"} <= names:  # torchvision's RegNet
        yield from ((f"{name}.1", {role}) for name, role in (("a", "p1"), ("b", "p2"), ("c", "p3")))
    elif layout := next((one for one in _TIMMS_BYOB if one.keys() <= names), None):
        yield from layout.items()
        yield from ((f"{child}.bn", of) for child, of in layout.items())
    elif {"conv_exp", "bn1", "conv_pwl", "bn2"} <= names:  # timm's fused mobile block
        yield from (("bn1", {"p1", "p2"}), ("bn2", {"p3"}))
    elif {"conv", "bn1", "drop_path"} <= names:  # timm's fused block without expansion, or a 1×1 head
        if getattr(children["conv"], "kernel_size", (1, 1)) != (1, 1):
            yield "bn1", {"p1", "p2"}
    elif "conv_dw" in names and all("." not in name for name in batch_norms(module)):  # timm's mobile blocks
        yield from _inverted_bottleneck_roles(module, "", shortcut=False)
    elif "branch2" in names:
        yield from _inverted_bottleneck_roles(children["branch2"], "branch2.", shortcut=False)
        yield from _inverted_bottleneck_roles(children["branch1"], "branch1.", shortcut=True)
    else:
        for name in ("conv", "block"):  # torchvision's MobileNets and EfficientNets
            if isinstance(branch := children.get(name), nn.Sequential):
                if _has_depthwise(branch):
                    yield from _inverted_bottleneck_roles(branch, f"{name}.", shortcut=False)
                elif "stochastic_depth" in names:
                    yield from _fused_roles(branch, f"{name}.")
    for shortcut in SHORTCUTS:
        for name, child in children.get(shortcut, nn.Identity()).named_modules():
            if isinstance(child, nn.BatchNorm2d):
                yield f"{shortcut}.{name}", {"downsample"}


def _norms_follow(children: dict[str, nn.Module], mixing: str) -> bool:
    """Return whether each `bn<i>` is defined behind `conv<i>` with its width, and `mixing` mixes pixels."""
    order = list(children)
    for name in (name for name in order if re.fullmatch(r"bn\d+", name)):
        conv = name.replace("bn", "conv")
        width = getattr(children.get(conv), "out_channels", None)
        is_behind = conv in children and order.index(conv) < order.index(name)
        if not is_behind or width not in (None, getattr(children[name], "num_features", width)):
            return False
    return getattr(children[mixing], "kernel_size", None) not in (1, (1, 1))


def _may_add_its_input(module: nn.Module) -> bool:
    """Return whether a block of numbered convolutions may be residual; True for any other module.

    Its output is as wide as its input, or a child or another argument of `forward` is the shortcut.
    """
    children = dict(module.named_children())
    last = children.get("conv3", children.get("conv2"))
    widths = getattr(children.get("conv1"), "in_channels", None), getattr(last, "out_channels", None)
    if None in widths or widths[0] == widths[1] or any(name in children for name in SHORTCUTS):
        return True
    return len(inspect.signature(module.forward).parameters) > 1


# timm's networks of blocks (ByobNet): children by role, of which the first layout that fits is taken.
_TIMMS_BYOB: tuple[dict[str, set[str]], ...] = (
    {"conv1_1x1": {"p1"}, "conv2_kxk": {"p2"}, "conv3_1x1": {"p3"}},
    {"conv1_1x1": {"p1"}, "post_attn": {"p2"}, "conv3_1x1": {"p3"}},
    {"conv1_1x1": {"p1"}, "conv2_kxk": {"p2"}},
    {"conv1_kxk": {"p1", "p2"}, "conv2_kxk": {"p3"}},
    {"conv1_kxk": {"p1", "p2"}, "conv2_1x1": {"p3"}},
)


def _has_depthwise(module: nn.Module) -> bool:
    return any(isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 for m in module.modules())


def _fused_roles(branch: nn.Module, prefix: str) -> Roles:
    """Yield p1 and p2 for the norm behind the first convolution, and p3 for those behind further ones."""
    norms = [name for name, module in branch.named_modules() if isinstance(module, nn.BatchNorm2d)]
    yield from ((f"{prefix}{name}", {"p3"} if number else {"p1", "p2"}) for number, name in enumerate(norms))


def _inverted_bottleneck_roles(branch: nn.Module, prefix: str, shortcut: bool) -> Roles:
    """Yield p1, p2, p3: norms before, directly after, and further behind the depthwise convolution."""
    seen_depthwise, last_is_depthwise = False, False
    for name, module in branch.named_modules():
        if isinstance(module, nn.Conv2d):
            last_is_depthwise = module.groups == module.in_channels > 1
            seen_depthwise |= last_is_depthwise
        elif isinstance(module, nn.BatchNorm2d):
            role = "p2" if last_is_depthwise else "p3" if seen_depthwise else "p1"
            yield f"{prefix}{name}", {"downsample" if shortcut and role != "p2" else role}
