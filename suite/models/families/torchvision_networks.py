"""torchvision's ResNets, MobileNetV2 and ShuffleNetV2, with the groups of the paper's released code."""

import torchvision
from torch import nn

from suite.architectures import Family


def build(arch: str, num_classes: int = 1000) -> nn.Module:
    """Return torchvision's network with freshly initialised weights."""
    model: nn.Module = torchvision.models.get_model(arch, weights=None, num_classes=num_classes)
    return model


_BUILDER = f"{__name__}:build"
FAMILIES = (
    Family(
        "resnet",
        _BUILDER,
        dict.fromkeys(
            (
                *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
                *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
                *("wide_resnet50_2", "wide_resnet101_2"),
            ),
            (64, 32),
        ),
        is_stem_converted=True,
        has_stages=True,
    ),
    # GN at every site takes the most groups that divide the channels of every site, here and below.
    Family("mobilenet_v2", _BUILDER, {"mobilenet_v2": (16, 8)}, is_stem_converted=False),
    Family(
        "shufflenet_v2",
        _BUILDER,
        {
            "shufflenet_v2_x0_5": (8, 8),
            "shufflenet_v2_x1_0": (29, 2),
            "shufflenet_v2_x1_5": (8, 8),
            "shufflenet_v2_x2_0": (61, 2),  # not released: two channels a group, as for x1_0
        },
        is_stem_converted=False,
    ),
)
