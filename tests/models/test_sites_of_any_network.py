"""Where `convert` puts batch-free norms in networks not ours: wrapped, with deep stems and fused blocks."""

from collections import Counter
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from suite.errors import UserError
from suite.models import chosen_sites, convert, norm_sites
from suite.models.norm_sites import NormSite

P2 = {"kind": "xbn", "position": "p2", "num_groups": 1}


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make()


class Net(nn.Module):
    """A user's own, around a backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torchvision.models.resnet50()


RESNET50: list[Callable[[], nn.Module]] = [
    torchvision.models.resnet50,
    Net,
    lambda: nn.Sequential(nn.Identity(), Net()),
    lambda: torchvision.models.segmentation.fcn_resnet50(weights_backbone=None),
    lambda: torchvision.models.segmentation.deeplabv3_resnet50(weights_backbone=None),
]


@pytest.mark.parametrize("make", RESNET50)
def test_a_resnet_is_found_wherever_it_is(make: Callable[[], nn.Module]) -> None:
    model = on_meta(make)
    sites = chosen_sites(model, P2)
    assert Counter(role for site in sites for role in site.roles) == {"p2": 16, "stem": 1}
    without = chosen_sites(model, {**P2, "stem": False})
    assert len(without) == 16
    late = chosen_sites(model, {**P2, "stem": False, "stages": [3, 4]})
    assert len(late) == 6 + 3
    converted = convert(model, P2)
    assert sum(isinstance(m, nn.GroupNorm) for m in converted.modules()) == 17


def test_data_parallel_is_looked_through() -> None:
    model = on_meta(lambda: nn.DataParallel(torchvision.models.resnet18()))
    assert sum("stem" in site.roles for site in chosen_sites(model, P2)) == 1


def preceding_conv(model: nn.Module, site: NormSite) -> nn.Conv2d:
    """The convolution whose output the norm gets: in these networks the last one that is defined before."""
    last = None
    for name, module in model.named_modules():
        if name == site.name:
            break
        last = module if isinstance(module, nn.Conv2d) else last
    assert last is not None
    return last


# Blocks, from the papers and configurations of these networks.
BLOCKS = {
    "resnext26ts": 8,
    "seresnet33ts": 10,
    "resnet26t": 8,
    "regnetx_002": 13,
    "tf_efficientnetv2_s": 40,
    "mobilenetv3_large_100": 15,  # and a 1×1 head of the same class as a fused block
    "gernet_s": 1 + 3 + 7 + 2 + 1,
}


@pytest.mark.parametrize(("name", "blocks"), BLOCKS.items())
def test_one_norm_of_each_block_behind_the_convolution_that_mixes_pixels(name: str, blocks: int) -> None:
    model = on_meta(lambda: timm.create_model(name))
    sites = [site for site in norm_sites(model) if "p2" in site.roles]
    assert len({site.name.rpartition(".")[0] for site in sites}) == len(sites)
    kernels = {preceding_conv(model, site).kernel_size for site in sites}
    assert (1, 1) not in kernels
    assert len(sites) == blocks


def test_fused_blocks_of_torchvision() -> None:
    model = on_meta(torchvision.models.efficientnet_v2_s)
    sites = norm_sites(model)
    # 2 + 4 + 4 fused blocks, of which the first two have a single norm, and 6 + 9 + 15 with a depthwise conv.
    assert sum("p2" in site.roles for site in sites) == 40
    assert sum("p3" in site.roles for site in sites) == 38
    fused = [site for site in sites if site.roles == {"p1", "p2"}]
    assert len(fused) == 10
    assert {preceding_conv(model, site).kernel_size for site in fused} == {(3, 3)}


@pytest.mark.parametrize("name", ["densenet121", "inception_v3", "vgg11_bn", "ghostnetv3_100"])
def test_networks_without_residual_blocks_of_a_known_layout_are_refused_and_untouched(name: str) -> None:
    model = on_meta(lambda: timm.create_model(name))
    before = str(model)
    with pytest.raises(UserError, match=r"batch norms (is|are) in a block of a known layout.*give `sites`"):
        convert(model, P2)
    assert str(model) == before


def test_a_conversion_of_a_small_share_of_the_blocks_is_refused_with_the_count() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.known = torchvision.models.resnet18().layer1
            self.others = nn.Sequential(*(nn.BatchNorm2d(8) for _ in range(12)))

    with pytest.raises(UserError, match="4 of its 16 batch norms are in a block of a known layout"):
        convert(on_meta(Mixed), P2)


class Numbered(nn.Module):
    """Modules named conv1, bn1, conv2, … in an order, the convolutions with these widths and kernels."""

    def __init__(self, order: str, widths: list[int], kernels: list[int]) -> None:
        super().__init__()
        pairs = list(zip(widths[:-1], widths[1:], kernels, strict=True))
        for word in order.split():
            number = int(word[-1]) - 1
            inputs, outputs, kernel = pairs[number]
            is_first = f"conv{number + 1}" in order.partition(word)[2]
            norm = nn.BatchNorm2d(inputs if is_first else outputs)
            self.add_module(word, norm if word[0] == "b" else nn.Conv2d(inputs, outputs, kernel))

    def forward(self, x: Tensor) -> Tensor:
        for module in self.children():
            x = module(x)
        return x


PLAIN, PLAIN_3 = "conv1 bn1 conv2 bn2", "conv1 bn1 conv2 bn2 conv3 bn3"
NO_BLOCKS = {
    "pre-activation": ("bn1 conv1 bn2 conv2", [8, 8, 8], [3, 3]),
    "pre-activation bottleneck": ("bn1 conv1 bn2 conv2 bn3 conv3", [8, 4, 4, 8], [1, 3, 1]),
    "bottleneck that mixes pixels first": (PLAIN_3, [8, 4, 4, 8], [3, 1, 1]),
    "pairs of convolutions of a U-Net": (PLAIN, [8, 16, 16], [3, 3]),
    "deep stem": (PLAIN_3, [3, 8, 8, 16], [3, 3, 3]),
}


@pytest.mark.parametrize("kind", NO_BLOCKS)
def test_numbered_convolutions_and_norms_alone_are_no_residual_block(kind: str) -> None:
    """In the first three a norm of the block's position p2 is elsewhere; the last two add nothing."""
    model = nn.Sequential(Numbered(*NO_BLOCKS[kind]), Numbered(*NO_BLOCKS[kind]))
    with pytest.raises(UserError, match="none of its batch norms is in a block of a known layout"):
        convert(model, P2)
    blocks = [Numbered(PLAIN_3, [16, 4, 4, 16], [1, 3, 1]) for _ in range(4)]
    model = nn.Sequential(Numbered(PLAIN, [3, 16, 16], [3, 3]), *blocks)
    model[0].__class__ = type("Stem", (Numbered,), {})
    found = [site.name for site in chosen_sites(model, {**P2, "stem": False})]
    assert found == [f"{number}.bn2" for number in (1, 2, 3, 4)]


def test_a_stem_or_shortcut_that_is_asked_for_and_not_known_is_said(caplog: pytest.LogCaptureFixture) -> None:
    blocks = on_meta(torchvision.models.resnet18).layer1
    assert len(chosen_sites(nn.Sequential(blocks), {**P2, "stem": True, "downsample": True})) == 2
    assert [record.getMessage() for record in caplog.records] == [
        f"norm.{part}: Sequential has none of a known layout; none is converted"
        for part in ("downsample", "stem")
    ]
    caplog.clear()
    chosen_sites(on_meta(torchvision.models.resnet18), {**P2, "stem": True, "downsample": True})
    assert not caplog.records
