"""Every architecture against what torchvision's originals imply, and an XBN block by hand."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck

from suite.architectures import ARCHITECTURES
from suite.errors import UserError
from suite.experiment import BatchFreeSpec, ModelSpec, NormSpec, XbnSpec
from suite.models import build_model, convert, load_weights, norm_sites
from suite.models.batch_free import GroupWhitening
from suite.models.norms.dyt import DynamicTanh
from suite.models.norms.evonorm import EvoNormS0
from suite.models.norms.frn import FilterResponseNorm
from suite.specs.norm_table import BATCH_FREE_NORMS, BATCH_NORM_VARIANTS
from suite.train.meter import flops_per_image
from tests.helpers.specs import spec

TORCHVISION = [arch for arch, a in ARCHITECTURES.items() if "torchvision" in a.family.builder]
SMALL = [arch for arch, a in ARCHITECTURES.items() if a.family.name == "small_resnet"]


def norm_of(**norm: object) -> NormSpec:
    return spec("resnet50", **norm).norm


def count(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


# Counted by hand: (parameters at 1000 classes as torchvision documents them, norms, BFNs of XBN-P2).
DOCUMENTED = {
    "resnet18": (11689512, 20, 9),
    "resnet34": (21797672, 36, 17),
    "resnet50": (25557032, 53, 17),
    "resnet101": (44549160, 104, 34),
    "resnet152": (60192808, 155, 51),
    "resnext50_32x4d": (25028904, 53, 17),
    "resnext101_32x8d": (88791336, 104, 34),
    "resnext101_64x4d": (83455272, 104, 34),
    "wide_resnet50_2": (68883240, 53, 17),
    "wide_resnet101_2": (126886696, 104, 34),
    "mobilenet_v2": (3504872, 52, 17),
    "shufflenet_v2_x0_5": (1366792, 56, 19),
    "shufflenet_v2_x1_0": (2278604, 56, 19),
    "shufflenet_v2_x1_5": (3503624, 56, 19),
    "shufflenet_v2_x2_0": (7393996, 56, 19),
}


@contextmanager
def on_meta() -> Iterator[None]:
    """Networks are built without values, nor the time that torch takes to draw none."""
    nothing = dict.fromkeys(INITIALISERS, lambda *_, **__: None)
    with mock.patch.multiple(nn.init, **nothing), torch.device("meta"):
        yield


INITIALISERS = ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_", "constant_", "ones_", "zeros_")


@pytest.mark.parametrize("arch", TORCHVISION)
def test_names_counts_and_norms_are_those_torchvision_implies_and_documents(arch: str) -> None:
    with on_meta():
        original = torchvision.models.get_model(arch, weights=None)
        specs = {kind: spec(arch, kind=kind) for kind in ("bn", "xbn", "gn")}
        models = {
            kind: build_model(one.model_copy(update={"num_classes": 1000})) for kind, one in specs.items()
        }
    if ARCHITECTURES[arch].family.name == "resnet":
        replaced = count(original, Bottleneck) + count(original, BasicBlock) + 1
    else:  # one norm behind each depthwise convolution
        replaced = sum(isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 for m in original.modules())
    norms = count(original, nn.BatchNorm2d)
    parameters = sum(p.numel() for p in models["xbn"].parameters())
    assert (parameters, norms, replaced) == DOCUMENTED[arch]
    # Norms of every kind here are affine over the same channels, so names and shapes do not move.
    assert all(shapes(model) == shapes(original) for model in models.values())
    assert (count(models["bn"], nn.BatchNorm2d), count(models["bn"], nn.GroupNorm)) == (norms, 0)
    assert (count(models["xbn"], nn.BatchNorm2d), count(models["xbn"], nn.GroupNorm)) == (
        norms - replaced,
        replaced,
    )
    assert (count(models["gn"], nn.BatchNorm2d), count(models["gn"], nn.GroupNorm)) == (0, norms)


@pytest.mark.parametrize("arch", SMALL)
def test_small_resnets_are_bottlenecks_with_a_downsampling_head_of_each_stage(arch: str) -> None:
    model = build_model(spec(arch, kind="xbn"))
    blocks = 3 * ((int(arch.removeprefix("small_resnet")) - 2) // 9)
    assert count(model, Bottleneck) == blocks
    assert count(model, nn.GroupNorm) == blocks + 1
    assert count(model, nn.BatchNorm2d) == 2 * blocks + 3
    for side in (28, 32):
        assert model(torch.randn(2, 3, side, side)).shape == (2, 10)


@pytest.mark.parametrize(
    ("norm", "names"),
    [
        ({"position": "p1"}, {"bn1", "layer1.0.bn1", "layer1.1.bn1"}),
        ({"position": "p2"}, {"bn1", "layer1.0.bn1", "layer1.1.bn1"}),
        ({"position": "p3"}, {"bn1", "layer1.0.bn2", "layer1.1.bn2"}),
        ({"position": "p3", "stem": False}, {"layer1.0.bn2", "layer1.1.bn2"}),
    ],
)
def test_basic_block_sites(norm: dict[str, object], names: set[str]) -> None:
    with on_meta():
        model = build_model(spec("resnet18", kind="xbn", **norm))
    found = {
        n for n, m in model.named_modules() if (isinstance(m, nn.GroupNorm) and "layer1" in n) or n == "bn1"
    }
    found -= {"bn1"} if not isinstance(model.bn1, nn.GroupNorm) else set()
    assert found == names


@pytest.mark.parametrize("position", ["p1", "p2", "p3"])
def test_bottleneck_sites_and_downsample(position: str) -> None:
    with on_meta():
        model = build_model(spec("resnet50", kind="xbn", position=position, downsample=True))
    block = model.layer2[0]
    norms = {"p1": block.bn1, "p2": block.bn2, "p3": block.bn3}
    assert {p for p, m in norms.items() if isinstance(m, nn.GroupNorm)} == {position}
    assert isinstance(block.downsample[1], nn.GroupNorm)


def test_mobile_sites_follow_the_depthwise_convolution() -> None:
    mobile = build_model(spec("mobilenet_v2", kind="xbn"))
    assert mobile.features[0][1].__class__ is nn.BatchNorm2d, "the stem keeps BN"
    for block in (m for m in mobile.modules() if isinstance(m, InvertedResidual)):
        depthwise = block.conv[-3]
        assert depthwise[0].groups == depthwise[0].in_channels
        assert isinstance(depthwise[1], nn.GroupNorm)
        assert isinstance(block.conv[-1], nn.BatchNorm2d)
    roles = {site.name: site.roles for site in norm_sites(build_model(spec("shufflenet_v2_x1_0")))}
    assert roles["stage2.0.branch1.1"] == {"p2"}
    assert roles["stage2.0.branch1.3"] == {"downsample"}
    assert [roles[f"stage2.1.branch2.{i}"] for i in (1, 4, 6)] == [{"p1"}, {"p2"}, {"p3"}]
    assert (roles["conv1.1"], roles["conv5.1"]) == ({"stem"}, {"other"})


def _standardised(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return (x - x.mean(dims, keepdim=True)) / (x.var(dims, correction=0, keepdim=True) + 1e-5).sqrt()


def test_an_xbn_block_by_hand() -> None:
    """P2 with two groups: BN over batch and pixels, GN over groups of channels and pixels, then BN again."""
    torch.manual_seed(0)
    model = build_model(spec("resnet50", kind="xbn", position="p2", num_groups=2)).train()
    block = model.layer1[1]
    x = torch.randn(4, 256, 5, 5)
    y = F.relu(_standardised(F.conv2d(x, block.conv1.weight), (0, 2, 3)))
    y = F.conv2d(y, block.conv2.weight, padding=1)
    grouped = y.reshape(4, 2, 32, 5, 5)
    y = F.relu(_standardised(grouped, (2, 3, 4)).reshape(y.shape))
    y = _standardised(F.conv2d(y, block.conv3.weight), (0, 2, 3))
    torch.testing.assert_close(block(x), F.relu(x + y), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("bfn", "kind"),
    [
        ("ln", nn.GroupNorm),
        ("in", nn.GroupNorm),
        ("gw", GroupWhitening),
        ("frn", FilterResponseNorm),
        ("evonorm", EvoNormS0),
        ("dyt", DynamicTanh),
    ],
)
def test_every_batch_free_norm_trains(bfn: str, kind: type[nn.Module]) -> None:
    model = build_model(spec("small_resnet11", kind="xbn", bfn=bfn))
    assert count(model, kind) == 4
    model(torch.randn(4, 3, 28, 28)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "replaced"), [("resnet50", 17), ("resnet18d", 9), ("seresnet50", 17), ("mobilenetv2_100", 18)]
)
def test_timm_networks_convert_and_run(name: str, replaced: int) -> None:
    model = convert(timm.create_model(name, pretrained=False), norm_of(kind="xbn", num_groups=8))
    assert count(model, nn.GroupNorm) == replaced
    assert model.eval()(torch.randn(1, 3, 64, 64)).isfinite().all()


def test_timm_activations_survive_conversion() -> None:
    original = timm.create_model("mobilenetv2_100", pretrained=False)
    act = type(original.blocks[1][0].bn2.act)
    converted = convert(original, norm_of(kind="gn", num_groups=8))
    assert any(isinstance(m, act) for m in converted.blocks[1][0].bn2.modules())


def test_convert_refuses_what_it_does_not_know() -> None:
    with pytest.raises(UserError, match="none of its batch norms is in a block of a known layout"):
        convert(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)), norm_of(kind="xbn"))
    named = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    assert isinstance(convert(named, norm_of(kind="xbn"), sites=["1"])[1], nn.GroupNorm)
    with pytest.raises(UserError, match="'7' is not a batch norm of the model; valid: "):
        convert(named, norm_of(kind="xbn"), sites=["7"])


def test_a_group_count_that_does_not_fit_names_the_site_and_the_valid_ones() -> None:
    with pytest.raises(
        UserError, match=r"norm\.num_groups at bn1: num_groups 7 does not divide 64.*valid: \[1, 2, 4"
    ):
        convert(torchvision.models.resnet18(), XbnSpec(kind="xbn", num_groups=7))


def test_released_checkpoints_load_and_pickles_with_code_do_not(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source, target = build_model(spec("resnet18", kind="xbn")), build_model(spec("resnet18", kind="xbn"))
    bare = {n: v for n, v in source.state_dict().items() if not n.endswith("num_batches_tracked")}
    torch.save(bare, tmp_path / "released.pt")
    load_weights(target, tmp_path / "released.pt")
    assert all(torch.equal(target.state_dict()[name], value) for name, value in bare.items())

    (tmp_path / "code.pt").write_bytes(pickle.dumps(Path))
    torch.save({"model": {"fc.weight": torch.zeros(1)}}, tmp_path / "other.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "released.pt").read_bytes()[:5000])
    for name, words in [
        ("code.pt", "not a readable checkpoint"),
        ("cut.pt", "not a readable checkpoint"),
        ("absent.pt", "no such checkpoint"),
        ("other.pt", r"missing \(first: conv1.weight\), 1 of another shape \(first: fc.weight\)"),
    ]:
        with pytest.raises(UserError, match=words) as refusal:
            load_weights(target, tmp_path / name)
        assert name in str(refusal.value)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("key", [None, "model", "state_dict"])
def test_checkpoints_of_other_training_code(prefix: str, key: str | None, tmp_path: Path) -> None:
    source, target = build_model(spec("small_resnet11")), build_model(spec("small_resnet11"))
    state = {f"{prefix}{n}": v for n, v in source.state_dict().items()}
    torch.save(state if key is None else {key: state, "epoch": 3}, tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    assert all(torch.equal(target.state_dict()[n], v) for n, v in source.state_dict().items())


def test_a_checkpoint_of_other_classes_or_of_another_network(tmp_path: Path) -> None:
    classes = ModelSpec(arch="resnet18", num_classes=7)
    torch.save(build_model(classes).state_dict(), tmp_path / "seven.pt")
    words = r"seven.pt: has 7 classes and the model 10 \(fc.weight\); make the model with num_classes 7"
    with pytest.raises(UserError, match=words):
        load_weights(build_model(spec("resnet18")), tmp_path / "seven.pt")
    wide = build_model(spec("shufflenet_v2_x1_0")).state_dict()
    torch.save(wide, tmp_path / "wide.pt")
    with pytest.raises(
        UserError, match=r"wide.pt: does not fit the model: \d+ of another shape \(first: stage2"
    ):
        load_weights(build_model(spec("shufflenet_v2_x0_5")), tmp_path / "wide.pt")


def test_architecture_names_are_torchvisions() -> None:
    assert set(TORCHVISION) <= set(torchvision.models.list_models(torchvision.models))


def test_convert_fills_nulls_as_released() -> None:
    with on_meta():
        model = convert(torchvision.models.resnet18(), XbnSpec(kind="xbn"))
        everywhere = convert(torchvision.models.resnet18(), BatchFreeSpec(kind="gn"))
        mobile = convert(torchvision.models.mobilenet_v2(), XbnSpec(kind="xbn", num_groups=8))
    assert isinstance(model.bn1, nn.GroupNorm)
    assert model.layer2[0].bn1.num_groups == 64
    assert {m.num_groups for m in everywhere.modules() if isinstance(m, nn.GroupNorm)} == {32}
    assert isinstance(mobile.features[0][1], nn.BatchNorm2d)


@pytest.mark.parametrize(
    "norm",
    [
        *({"kind": kind} for kind in ("bn", *BATCH_NORM_VARIANTS)),
        *({"kind": "xbn", "bfn": bfn} for bfn in BATCH_FREE_NORMS),
    ],
)
def test_the_work_of_every_norm_is_counted_on_the_meta_device(norm: dict[str, str]) -> None:
    with torch.device("meta"):
        model = build_model(spec("small_resnet11", **norm))
    image = torch.zeros(1, 3, 28, 28, device="meta")
    assert flops_per_image(model, lambda network: network.eval()(image).sum()) > 5e7
