"""Norms with an activation of their own: where they activate, and that nothing activates there once more."""

import copy
import pickle
import re
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from suite.errors import UserError
from suite.models import build_model, convert
from suite.models.activations import activation_behind
from suite.models.norm_sites import batch_norms
from suite.models.norms.evonorm import EvoNormS0
from suite.models.norms.frn import FilterResponseNorm
from tests.helpers.specs import spec


def traced(model: nn.Module, images: Tensor) -> dict[str, str | None]:
    """Which activation is given the very output of each batch norm, as the network runs.

    Blocks add to that output in place, which its version tells.
    """
    outputs: list[tuple[str, Tensor, int]] = []
    found: dict[str, str | None] = dict.fromkeys(batch_norms(model))

    def note(name: str) -> Callable[..., None]:
        return lambda module, args, out: outputs.append((name, out, out._version))

    def look(name: str) -> Callable[..., None]:
        def update(module: nn.Module, args: tuple[Tensor]) -> None:
            same = (n for n, out, version in outputs if out is args[0] and out._version == version)
            found.update(dict.fromkeys(same, name))

        return update

    for name, module in model.named_modules():
        if name in found:
            module.register_forward_hook(note(name))
        elif type(module).__module__ == "torch.nn.modules.activation":
            module.register_forward_pre_hook(look(name))
    with torch.no_grad():
        model.eval()(images)
    return found


def of(arch: str) -> Callable[[], nn.Module]:
    return lambda: build_model(spec(arch))


NETWORKS = {
    **{a: of(a) for a in ("resnet18", "resnet50", "mobilenet_v2", "shufflenet_v2_x1_0", "small_resnet11")},
    "mlp10": of("mlp10"),
    "efficientnet_v2_s": lambda: torchvision.models.efficientnet_v2_s(weights=None),
    "mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(weights=None),
    "regnet_y_400mf": lambda: torchvision.models.regnet_y_400mf(weights=None),
    "timm resnet18": lambda: timm.create_model("resnet18"),
    "timm resnet26d": lambda: timm.create_model("resnet26d"),
    "layers": lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(), nn.Mish()),
    "nested": lambda: nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), nn.ReLU6()),
    "last": lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_activation_behind_each_norm_is_the_one_that_runs(name: str) -> None:
    model = NETWORKS[name]()
    side = 28 if name == "mlp10" else 64
    # torchvision's blocks call one `relu` where ours will call `relu1` and `relu2`.
    told = {norm: activation_behind(model, norm) for norm in batch_norms(model)}
    if "resnet" in name and "timm" not in name:
        told = {norm: act and re.sub(r"relu[12]$", "relu", act) for norm, act in told.items()}
    assert told == traced(model, torch.randn(1, 3, side, side))
    assert any(told.values()) is (name != "last")


def randomise(model: nn.Module) -> nn.Module:
    """Parameters of norms anywhere, such as thresholds above and below 0, so that each of them shows."""
    for module in model.modules():
        if isinstance(module, FilterResponseNorm | EvoNormS0 | nn.BatchNorm2d):
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.5)
    return model


def by_hand(norm: nn.Module, x: Tensor, is_active: bool) -> Tensor:
    """FRN or EvoNorm-S0 written out, with or without its activation."""
    weight, bias = norm.weight[:, None, None], norm.bias[:, None, None]
    if isinstance(norm, FilterResponseNorm):
        y = x / (x.square().mean((2, 3), keepdim=True) + 1e-6).sqrt() * weight + bias
        return torch.maximum(y, norm.threshold[:, None, None]) if is_active else y
    if not is_active:
        return x * weight + bias
    grouped = x.reshape(len(x), norm.num_groups, -1)
    sigma = (grouped.var(2, correction=0, keepdim=True) + 1e-5).sqrt().expand_as(grouped).reshape(x.shape)
    return x * torch.sigmoid(norm.slope[:, None, None] * x) / sigma * weight + bias


@pytest.mark.parametrize("kind", ["frn", "evonorm"])
def test_a_bottleneck_by_hand(kind: str) -> None:
    torch.manual_seed(0)
    block = randomise(build_model(spec("resnet50", kind=kind))).layer2[0]
    x = torch.randn(2, 256, 6, 6)
    y = by_hand(block.bn1, F.conv2d(x, block.conv1.weight), True)
    y = by_hand(block.bn2, F.conv2d(y, block.conv2.weight, stride=2, padding=1), True)
    y = by_hand(block.bn3, F.conv2d(y, block.conv3.weight), False)
    conv, norm = block.downsample
    shortcut = by_hand(norm, F.conv2d(x, conv.weight, stride=2), False)
    torch.testing.assert_close(block(x), F.relu(y + shortcut), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["frn", "evonorm"])
def test_a_basic_block_and_the_stem_by_hand(kind: str) -> None:
    torch.manual_seed(0)
    model = randomise(build_model(spec("resnet18", kind=kind)))
    images = torch.randn(2, 3, 32, 32)
    x = by_hand(model.bn1, F.conv2d(images, model.conv1.weight, stride=2, padding=3), True)
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    block = model.layer1[0]
    y = by_hand(block.bn1, F.conv2d(x, block.conv1.weight, padding=1), True)
    y = by_hand(block.bn2, F.conv2d(y, block.conv2.weight, padding=1), False)
    seen: list[Tensor] = []
    block.register_forward_hook(lambda module, args, out: seen.append(out))
    model(images)
    torch.testing.assert_close(seen[0], F.relu(x + y), atol=1e-4, rtol=1e-4)


def batch_norm(norm: nn.Module, x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, norm.weight, norm.bias, training=True)


@pytest.mark.parametrize(("position", "active"), [("p1", "bn1"), ("p2", "bn2"), ("p3", None)])
@pytest.mark.parametrize("kind", ["frn", "evonorm"])
def test_an_xbn_block_by_hand(kind: str, position: str, active: str | None) -> None:
    """The other norms are BN, with the ReLU behind them as before."""
    torch.manual_seed(0)
    model = build_model(spec("resnet50", kind="xbn", bfn=kind, position=position))
    block = randomise(model).train().layer1[1]
    x = torch.randn(4, 256, 5, 5)
    y = x
    for i, padding in ((1, 0), (2, 1), (3, 0)):
        norm = block.get_submodule(f"bn{i}")
        y = F.conv2d(y, block.get_submodule(f"conv{i}").weight, padding=padding)
        if position == f"p{i}":
            y = by_hand(norm, y, active == f"bn{i}")
        else:
            y = batch_norm(norm, y)
            y = F.relu(y) if i < 3 else y
    torch.testing.assert_close(block(x), F.relu(x + y), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("arch", "active", "passive", "relus"), [("resnet50", 33, 20, 16), ("resnet18", 9, 11, 8)]
)
def test_a_network_has_as_many_activations_as_before(
    arch: str, active: int, passive: int, relus: int
) -> None:
    """ResNet-50: 16 × 2 + stem; 16 last norms and 4 shortcuts; ReLUs after the 16 additions."""
    with torch.device("meta"):
        model = build_model(spec(arch, kind="frn"))
    norms = [m.threshold is not None for m in model.modules() if isinstance(m, FilterResponseNorm)]
    assert (norms.count(True), norms.count(False)) == (active, passive)
    assert sum(isinstance(m, nn.ReLU) for m in model.modules()) == relus


def test_blocks_keep_their_names_and_can_be_copied() -> None:
    original = torchvision.models.resnet18()
    names = {name for name, _ in original.named_parameters()}
    model = convert(original, {"kind": "xbn", "bfn": "frn"})
    assert names < {name for name, _ in model.named_parameters()}
    images = torch.randn(2, 3, 32, 32)
    expected = model.eval()(images)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(images), expected)


def test_timms_norm_with_activation_gives_it_up() -> None:
    model = timm.create_model("efficientnet_b0")
    convert(model, {"kind": "evonorm", "num_groups": 8})
    active = {n: m.slope is not None for n, m in model.named_modules() if isinstance(m, EvoNormS0)}
    # Those of the depthwise blocks: behind the last 1×1 convolution there is no activation.
    assert {n: is_on for n, is_on in active.items() if n.startswith("blocks.1.0.")} == {
        "blocks.1.0.bn1.0": True,
        "blocks.1.0.bn2.0": True,
        "blocks.1.0.bn3.0": False,
    }
    inside = [m for n, m in model.named_modules() if re.search(r"bn\d\.\d$", n)]
    assert not any(isinstance(m, nn.SiLU) for m in inside)


class Own(nn.Module):
    """A network of a user's, whose `forward` alone says what is behind the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def test_a_network_that_does_not_show_its_activations_is_refused() -> None:
    model = nn.Sequential(torchvision.models.resnet18(), Own())
    before = str(model)
    with pytest.raises(
        UserError, match=r"1\.bn: whether an activation is behind it.* not for Own"
    ) as refusal:
        convert(model, "frn")
    assert "\n" not in str(refusal.value)
    assert str(model) == before
    convert(model, "dyt")  # which has none
