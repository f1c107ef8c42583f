"""Where batch-free norms may be: groups, stages, and the table of channels that these are checked with."""

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from suite.architectures import ARCHITECTURES
from suite.errors import UserError
from suite.experiment import XbnSpec
from suite.models import build_model, convert, norm_sites
from tests.helpers.specs import spec


@pytest.mark.parametrize(
    ("arch", "norm", "said"),
    [
        ("small_resnet20", {"kind": "xbn", "num_groups": 7}, "7 does not divide the 16, 32 and 64 channels"),
        ("small_resnet20", {"kind": "xbn", "num_groups": 48, "stages": [2], "stem": False}, None),  # clipped
        ("resnet50", {"kind": "xbn", "num_groups": 128}, None),
        ("resnet50", {"kind": "xbn", "num_groups": 96}, r"valid: 1, 2, 4, 8, 16, 32, 64, 128, 256, 512 \["),
        ("shufflenet_v2_x1_0", {"kind": "xbn", "num_groups": 29}, None),
        ("shufflenet_v2_x1_0", {"kind": "gn", "num_groups": 29}, r"valid: 1, 2, 256, 512, 1024 \["),
        (
            "mlp20",
            {"kind": "xbn", "num_groups": 8},
            "does not divide the 100 channels of mlp20's norms there",
        ),
    ],
)
def test_groups_that_do_not_fit_are_refused_before_anything_is_built(
    arch: str, norm: dict[str, Any], said: str | None
) -> None:
    if said is None:
        build_model(spec(arch, **norm))
    else:
        with pytest.raises(ValueError, match=said):
            spec(arch, **norm)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_table_of_channels_is_what_the_networks_have(arch: str) -> None:
    with torch.device("meta"):
        sites = norm_sites(build_model(spec(arch)))
    roles = {role for site in sites for role in site.roles}
    for role in roles:
        assert ARCHITECTURES[arch].norm_channels([role]) == sorted(
            {s.num_channels for s in sites if role in s.roles}
        )
    assert ARCHITECTURES[arch].norm_channels() == sorted({site.num_channels for site in sites})
    for stage in range(1, (ARCHITECTURES[arch].num_stages or 0) + 1):
        here = [site for site in sites if site.name.startswith(f"layer{stage}.")]
        for role in roles - {"stem"}:
            assert ARCHITECTURES[arch].norm_channels([role], [stage]) == sorted(
                {site.num_channels for site in here if role in site.roles}
            )


def test_xbn_in_some_stages_alone() -> None:
    model = build_model(spec("resnet50", kind="xbn", position="p3", stages=[4, 2], downsample=True))
    names = {name for name, module in model.named_modules() if isinstance(module, nn.GroupNorm)}
    blocks = {2: 4, 4: 3}  # of ResNet-50's 3, 4, 6, 3
    wanted = {f"layer{stage}.{block}.bn3" for stage, count in blocks.items() for block in range(count)}
    assert names == wanted | {"bn1", "layer2.0.downsample.1", "layer4.0.downsample.1"}
    every = spec("resnet50", kind="xbn", stages=[4, 3, 2, 1])
    assert every == spec("resnet50", kind="xbn")
    assert spec("resnet50", kind="xbn", stages=[4, 2]).norm.label == "XBN-P2-GN64-s24"


@pytest.mark.parametrize(
    ("arch", "stages", "said"),
    [
        ("resnet50", [5], "resnet50 has stages 1 to 4, there is no 5"),
        ("small_resnet20", [4], "small_resnet20 has stages 1 to 3, there is no 4"),
        ("mobilenet_v2", [1], "norm.stages is for ResNets; mobilenet_v2 has no stages"),
        ("mlp20", [1], "norm.stages is for ResNets; mlp20 has no stages"),
        ("resnet50", [], r"expected different stages, such as \[3, 4\], got \[\]"),
        ("resnet50", [2, 2], "expected different stages"),
    ],
)
def test_stages_that_there_are_not_are_refused(arch: str, stages: list[int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        spec(arch, kind="xbn", stages=stages)


def test_another_networks_stages_are_its_layers() -> None:
    with pytest.raises(UserError, match=r"norm\.stages: MobileNetV2 has no stage 1 \(layer1\)"):
        convert(torchvision.models.mobilenet_v2(), XbnSpec(kind="xbn", num_groups=8, stages=(1,)))


def test_groups_of_one_channel_are_said(caplog: pytest.LogCaptureFixture) -> None:
    """ResNet-50: the stem and the first stage have 64 channels where the released models have 64 groups."""
    convert(torchvision.models.resnet50(), "xbn")
    four = "groups of one channel at 4 of 17 norms (bn1, layer1.0.bn2, layer1.1.bn2, …)"
    assert caplog.messages == [f"{four}: GN is an instance norm there"]
    caplog.clear()
    convert(torchvision.models.resnet50(), {"kind": "xbn", "num_groups": 32})
    convert(torchvision.models.resnet50(), {"kind": "xbn", "bfn": "in"})  # which is what was asked for
    assert caplog.messages == []
    flat = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    convert(flat, {"kind": "gn", "num_groups": 8})
    (said,) = caplog.messages
    assert said.startswith("groups of one channel at 1 of 1 norms (1): GN is an instance norm there")
    assert said.endswith(", and gives zeros where an input has no pixels")
    assert flat(torch.randn(4, 8)).abs().max() < 1e-4
