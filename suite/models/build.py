"""From a ModelSpec to a network."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from suite.architectures import ARCHITECTURES
from suite.experiment import ModelSpec
from suite.models.xbn import convert
from suite.specs.choice import resolve


def build_model(spec: ModelSpec) -> nn.Module:
    """Return the network with freshly initialised weights, on the CPU. Seed torch first to fix them.

    Without `num_classes` it has its family's own number: 1,000 for torchvision's networks, else 10. Raises
    UserError when the spec's groups do not fit the channels at some site.
    """
    build = resolve(ARCHITECTURES[spec.arch].family.builder)
    classes = () if spec.num_classes is None else (spec.num_classes,)
    model: nn.Module = build(spec.arch, *classes)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = spec.bn_momentum
    return convert(model, spec.norm)
