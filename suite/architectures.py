"""The architectures by name: one table, readable without torch (a test holds it against torchvision)."""

from enum import Enum


class Family(Enum):
    """How a network's norm sites are laid out."""

    RESNET = "resnet"
    SMALL_RESNET = "small_resnet"
    MOBILENET_V2 = "mobilenet_v2"
    SHUFFLENET_V2 = "shufflenet_v2"
    MLP = "mlp"


ARCHITECTURES: dict[str, Family] = {
    **dict.fromkeys(
        (
            "resnet18",
            "resnet34",
            "resnet50",
            "resnet101",
            "resnet152",
            "resnext50_32x4d",
            "resnext101_32x8d",
            "resnext101_64x4d",
            "wide_resnet50_2",
            "wide_resnet101_2",
        ),
        Family.RESNET,
    ),
    "mobilenet_v2": Family.MOBILENET_V2,
    **dict.fromkeys(
        ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"),
        Family.SHUFFLENET_V2,
    ),
    # Ours: bottleneck ResNets with a 3×3 stem and three stages, depth 9n + 2.
    **dict.fromkeys(("small_resnet11", "small_resnet20", "small_resnet29"), Family.SMALL_RESNET),
    # Ours too, after the paper's: so many layers of 100 units on grey images of 28 × 28 pixels.
    **dict.fromkeys(("mlp10", "mlp20"), Family.MLP),
}
MLP_IMAGE_SIZE = 28

# Groups of the XBN blocks as released (shufflenet_v2_x2_0 was not: 61 keeps two channels a group, as 29
# does), and of GN at every site: 32 for ResNets, elsewhere the most that divides every site's channels.
_GROUPS: dict[Family | str, tuple[int, int]] = {
    Family.RESNET: (64, 32),
    Family.SMALL_RESNET: (8, 8),
    Family.MOBILENET_V2: (16, 8),
    Family.MLP: (10, 10),
    "shufflenet_v2_x0_5": (8, 8),
    "shufflenet_v2_x1_0": (29, 2),
    "shufflenet_v2_x1_5": (8, 8),
    "shufflenet_v2_x2_0": (61, 2),
}


def input_channels(arch: str) -> int:
    """How many of an image's three channels the network reads: 1, the first, or 3."""
    return 1 if ARCHITECTURES[arch] is Family.MLP else 3


def default_num_groups(arch: str, everywhere: bool) -> int:
    """Groups of GN in XBN blocks, or of GN at every site, when the config does not say.

    Source: the released code, as listed in docs/design.md. The small ResNets take 8: their blocks are
    16 to 64 channels wide, and 64 groups would make every one an instance norm. The MLPs' is our choice,
    ten units a group: the paper does not say.
    """
    family = ARCHITECTURES[arch]
    return _GROUPS[arch if family is Family.SHUFFLENET_V2 else family][everywhere]
