"""Where `convert` puts batch-free norms in networks not ours: wrapped, with deep stems and fused blocks."""

from collections import Counter
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import nn

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
