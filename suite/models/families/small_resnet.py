"""Bottleneck ResNets for images of 28 to 64 pixels that train on a CPU."""

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, conv1x1

from suite.architectures import Family


class SmallResNet(nn.Module):
    """A 3×3 stem and three stages of torchvision's Bottleneck at full, half and quarter resolution.

    The depth is 9n + 2 for n blocks per stage. A block of the first stage gives 4 × `width` channels, one of
    the second and third twice and four times as many. Module names are torchvision's.
    Input (N, 3, H, W), output (N, num_classes).
    """

    def __init__(self, blocks_per_stage: int, num_classes: int, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(width, width, blocks_per_stage, stride=1)
        self.layer2 = _stage(4 * width, 2 * width, blocks_per_stage, stride=2)
        self.layer3 = _stage(8 * width, 4 * width, blocks_per_stage, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x_NCHW = self.relu(self.bn1(self.conv1(x_NCHW)))
        x_NCHW = self.layer3(self.layer2(self.layer1(x_NCHW)))
        logits_NK: Tensor = self.fc(self.avgpool(x_NCHW).flatten(1))
        return logits_NK


def _stage(in_channels: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    out_channels = planes * Bottleneck.expansion
    downsample = nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))
    rest = [Bottleneck(out_channels, planes) for _ in range(blocks - 1)]
    return nn.Sequential(Bottleneck(in_channels, planes, stride, downsample), *rest)


def build(arch: str, num_classes: int = 10) -> nn.Module:
    """Return the network whose name ends with its depth."""
    return SmallResNet((int(arch.removeprefix("small_resnet")) - 2) // 9, num_classes)


# The blocks are 16 to 64 channels wide: 64 groups, as for ResNets, would make every GN an instance norm.
FAMILIES = (
    Family(
        "small_resnet",
        f"{__name__}:build",
        dict.fromkeys(("small_resnet11", "small_resnet20", "small_resnet29"), (8, 8)),
        is_stem_converted=True,
        has_stages=True,
    ),
)
