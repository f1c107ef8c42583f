"""The multilayer perceptron of the estimation-shift experiments, for grey images of 28 × 28 pixels.

Shape suffixes: N samples, D inputs or units.
"""

from torch import Tensor, nn

from suite.architectures import Family
from suite.data.loader import MEAN, STD

IMAGE_SIZE = 28


class Mlp(nn.Module):
    """`depth` × (Linear → BN → ReLU), then Linear to the classes; BN without affine parameters.

    Source: Huang et al. 2022, who took 20 layers on MNIST. They state neither the initial weights nor
    the scale of the pixels: here weights are normal with variance 1 / inputs (LeCun et al. 1998), and pixels
    lie in [0, 1]. The variance decides how far the first estimates (variance 1) are from the layers' own; the
    scale of the pixels scales the first layer's shift and no other.

    Layers come in pairs, so that a batch-free norm at P2 is the paper's "GNBN": BN in the layers 0, 2, 4, …,
    the other norm in the layers 1, 3, 5, …. Input (N, C, 28, 28), normalised by a loader; only the first
    channel is read, since grey images have three equal ones. Output (N, num_classes).
    """

    def __init__(self, depth: int, num_classes: int, width: int = 100) -> None:
        super().__init__()
        assert depth % 2 == 0, "layers come in pairs"
        inputs = [IMAGE_SIZE**2] + [width] * (depth // 2 - 1)
        self.pairs = nn.Sequential(*[Pair(num_inputs, width) for num_inputs in inputs])
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        pixels_ND = x_NCHW[:, 0].flatten(1) * STD[0] + MEAN[0]
        logits_NK: Tensor = self.fc(self.pairs(pixels_ND))
        return logits_NK


class Pair(nn.Module):
    """Two layers, each Linear → BN → ReLU."""

    def __init__(self, num_inputs: int, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(num_inputs, width)
        self.bn1 = nn.BatchNorm1d(width, affine=False)
        self.linear2 = nn.Linear(width, width)
        self.bn2 = nn.BatchNorm1d(width, affine=False)
        self.relu1, self.relu2 = nn.ReLU(inplace=True), nn.ReLU(inplace=True)
        for linear in (self.linear1, self.linear2):
            nn.init.kaiming_normal_(linear.weight, nonlinearity="linear")

    def forward(self, x_ND: Tensor) -> Tensor:
        x_ND = self.relu1(self.bn1(self.linear1(x_ND)))
        out_ND: Tensor = self.relu2(self.bn2(self.linear2(x_ND)))
        return out_ND


def build(arch: str, num_classes: int = 10) -> nn.Module:
    """Return the network whose name ends with its number of layers."""
    return Mlp(int(arch.removeprefix("mlp")), num_classes)


# The paper does not state GN's groups: ours have ten units each.
FAMILIES = (
    Family(
        "mlp",
        f"{__name__}:build",
        dict.fromkeys(("mlp10", "mlp20"), (10, 10)),
        is_stem_converted=None,
        takes_vectors=True,
        image_size=IMAGE_SIZE,
        input_channels=1,
        positions_note="the first and second layer of each pair",
    ),
)
