"""The architectures by name: tables that are read without torch (tests hold them against torchvision)."""

from collections.abc import Collection
from enum import Enum

Channels = dict[str, tuple[int, ...]]


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


def _resnet(planes: int, num_stages: int = 4, inner: int = 1, outer: int = 4) -> Channels:
    """Of a bottleneck ResNet; a stage has twice the channels of the one before."""
    first, last = ([factor * planes * 2**stage for stage in range(num_stages)] for factor in (inner, outer))
    sites = {"stem": (planes,), "p1": first, "p2": first, "p3": last, "downsample": last}
    return {role: tuple(channels) for role, channels in sites.items()}


def _shufflenet(first: int, second: int, third: int, last: int) -> Channels:
    branches = (first // 2, second // 2, third // 2)
    sites = {"stem": (24,), "p1": branches, "p3": branches, "downsample": branches, "other": (last,)}
    return {**sites, "p2": (*branches, 24, first, second)}


_BASIC: Channels = {**_resnet(64, outer=1), "downsample": (0, 128, 256, 512)}  # none in its first stage
_EXPANSIONS = (96, 144, 192, 384, 576, 960)
# Of the norm sites of each role (`suite.models.xbn`); in a ResNet by stage, with 0 where it has none.
_CHANNELS: dict[str, Channels] = {
    **dict.fromkeys(("resnet18", "resnet34"), _BASIC),
    **dict.fromkeys(("resnet50", "resnet101", "resnet152"), _resnet(64)),
    **dict.fromkeys(("resnext50_32x4d", "wide_resnet50_2", "wide_resnet101_2"), _resnet(64, inner=2)),
    **dict.fromkeys(("resnext101_32x8d", "resnext101_64x4d"), _resnet(64, inner=4)),
    **dict.fromkeys(("small_resnet11", "small_resnet20", "small_resnet29"), _resnet(16, num_stages=3)),
    "mobilenet_v2": {
        "stem": (32,),
        "p1": _EXPANSIONS,
        "p2": (32, *_EXPANSIONS),
        "p3": (16, 24, 32, 64, 96, 160, 320),
        "other": (1280,),
    },
    "shufflenet_v2_x0_5": _shufflenet(48, 96, 192, 1024),
    "shufflenet_v2_x1_0": _shufflenet(116, 232, 464, 1024),
    "shufflenet_v2_x1_5": _shufflenet(176, 352, 704, 1024),
    "shufflenet_v2_x2_0": _shufflenet(244, 488, 976, 2048),
    **{arch: {"p1": (100,), "p2": (100,)} for arch in ("mlp10", "mlp20")},
}


def num_stages(arch: str) -> int | None:
    """Of a ResNet's blocks; None for another network, whose blocks are in no stages here."""
    is_resnet = ARCHITECTURES[arch] in (Family.RESNET, Family.SMALL_RESNET)
    return len(_CHANNELS[arch]["p1"]) if is_resnet else None


def norm_channels(
    arch: str, roles: Collection[str] | None = None, stages: Collection[int] | None = None
) -> list[int]:
    """How many channels the norm sites of these roles have, in these stages of a ResNet: each number once.

    None: of all roles, in all stages. A stem is in no stage.
    """
    found: set[int] = set()
    for role, channels in _CHANNELS[arch].items():
        if roles is not None and role not in roles:
            continue
        if stages is None or role == "stem":
            found |= set(channels)
        else:
            found |= {channels[stage - 1] for stage in stages}
    return sorted(found - {0})


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
