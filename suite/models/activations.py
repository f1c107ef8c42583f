"""Which activation is behind a norm, for norms that contain one (FRN with TLU, EvoNorm-S0).

Such a norm takes the place of the activation behind it, and does not activate where there is none, as before
an addition. A `Sequential` shows what is behind a norm. Other classes are in a table, since only their
`forward` says it. torchvision's residual blocks call one ReLU at several places; their subclasses here call a
module of its own at each, so that one can be taken out.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from suite.errors import UserError


class BasicBlockApart(BasicBlock):  # type: ignore[misc]
    """torchvision's BasicBlock with a ReLU of its own behind bn1. Input and output: (N, C, H, W)."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        out_NCHW = self.relu1(self.bn1(self.conv1(x_NCHW)))
        out_NCHW = self.bn2(self.conv2(out_NCHW))
        return _added(self, out_NCHW, x_NCHW)


class BottleneckApart(Bottleneck):  # type: ignore[misc]
    """torchvision's Bottleneck with ReLUs of their own behind bn1 and bn2. Input and output: (N, C, H, W)."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        out_NCHW = self.relu1(self.bn1(self.conv1(x_NCHW)))
        out_NCHW = self.relu2(self.bn2(self.conv2(out_NCHW)))
        out_NCHW = self.bn3(self.conv3(out_NCHW))
        return _added(self, out_NCHW, x_NCHW)


def _added(block: Any, out_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
    identity_NCHW = x_NCHW if block.downsample is None else block.downsample(x_NCHW)
    activated_NCHW: Tensor = block.relu(out_NCHW + identity_NCHW)
    return activated_NCHW


_APART: dict[type[nn.Module], type[nn.Module]] = {BasicBlock: BasicBlockApart, Bottleneck: BottleneckApart}

# By the class that calls a norm, or calls the Sequential that ends with one: the child that is the activation
# behind it; None where there is none.
_BASIC: dict[str, str | None] = {"bn1": "relu1", "bn2": None, "downsample": None}
_BOTTLENECK: dict[str, str | None] = {"bn1": "relu1", "bn2": "relu2", "bn3": None, "downsample": None}
BEHIND: dict[str, dict[str, str | None]] = {
    "torchvision.models.resnet.ResNet": {"bn1": "relu"},
    "torchvision.models.resnet.BasicBlock": _BASIC,
    "torchvision.models.resnet.Bottleneck": _BOTTLENECK,
    f"{__name__}.BasicBlockApart": _BASIC,
    f"{__name__}.BottleneckApart": _BOTTLENECK,
    "torchvision.models.mobilenetv2.InvertedResidual": {"conv": None},
    "torchvision.models.mobilenetv3.InvertedResidual": {"block": None},
    "torchvision.models.efficientnet.MBConv": {"block": None},
    "torchvision.models.efficientnet.FusedMBConv": {"block": None},
    "torchvision.models.regnet.ResBottleneckBlock": {"f": None, "proj": None},
    "timm.models.resnet.ResNet": {"bn1": "act1"},
    "timm.models.resnet.BasicBlock": {"bn1": "act1", "bn2": None, "downsample": None},
    "timm.models.resnet.Bottleneck": {"bn1": "act1", "bn2": "act2", "bn3": None, "downsample": None},
    "suite.models.families.small_resnet.SmallResNet": {"bn1": "relu"},
    "suite.models.families.mlp.Pair": {"bn1": "relu1", "bn2": "relu2"},
}


def activation_behind(model: nn.Module, norm: str) -> str | None:
    """Return the name of the activation behind a norm, given by its name; None where there is none.

    The activations of torchvision's blocks are named as they are once `without_activations` has told them
    apart. Raises UserError where a class is not known.
    """
    if isinstance(act := getattr(model.get_submodule(norm), "act", None), nn.Module):  # timm's BatchNormAct2d
        return None if isinstance(act, nn.Identity) else f"{norm}.act"
    name = norm
    while True:
        holder_name, _, child = name.rpartition(".")
        holder = model.get_submodule(holder_name)
        if type(holder).forward is not nn.Sequential.forward:
            return _by_table(holder, holder_name, child, norm)
        names = list(dict(holder.named_children()))
        for behind in names[names.index(child) + 1 :]:
            module = holder.get_submodule(behind)
            if not isinstance(module, nn.Identity | nn.modules.dropout._DropoutNd):
                return f"{holder_name}.{behind}".lstrip(".") if _is_activation(module) else None
        if holder is model:
            return None
        name = holder_name


def _by_table(holder: nn.Module, holder_name: str, child: str, norm: str) -> str | None:
    kind = f"{type(holder).__module__}.{type(holder).__qualname__}"
    if child not in BEHIND.get(kind, {}):
        known = (
            "nn.Sequential, torchvision's and timm's ResNets, and torchvision's mobile networks and RegNets"
        )
        raise UserError(
            f"{norm}: whether an activation is behind it, which the new norm would replace, is only known "
            f"for {known}, not for {type(holder).__name__}"
        )
    behind = BEHIND[kind][child]
    return None if behind is None else f"{holder_name}.{behind}".lstrip(".")


def _is_activation(module: nn.Module) -> bool:
    kind = type(module)
    return kind.__module__ == nn.ReLU.__module__ and not issubclass(kind, nn.MultiheadAttention)


def without_activations(model: nn.Module, activations: Iterable[str]) -> None:
    """Put identities in place of the activations with these names, which `activation_behind` gave."""
    for name in activations:
        holder_name, _, child = name.rpartition(".")
        holder = model.get_submodule(holder_name)
        if apart := _APART.get(type(holder)):
            for own in {behind for behind in BEHIND[f"{__name__}.{apart.__name__}"].values() if behind}:
                holder.add_module(own, nn.ReLU(inplace=True))
            holder.__class__ = apart
        setattr(holder, child, nn.Identity())
