"""Folded and quantised networks against the ones that they were made of, and one fold by hand."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from suite.errors import UserError
from suite.shift import deploy, fold_batch_norms, logit_difference, precise_statistics, probe, quantised
from suite.shift.fold import NO_STATISTICS, NOT_BEHIND, NOT_TRACED, UNKNOWN
from suite.shift.layers import batch_norm_layers

IMAGES = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def trained(model: nn.Module) -> nn.Module:
    """Give every norm estimates of images, and scales and shifts other than 1 and 0."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for layer in batch_norm_layers(model).values():
            layer.momentum = None
            if layer.affine:
                layer.weight.copy_(0.5 + torch.rand(layer.weight.shape, generator=generator))
                layer.bias.copy_(0.2 * torch.randn(layer.bias.shape, generator=generator))
        model.train()(IMAGES)
    return model.eval()


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    library, _, rest = name.partition(":")
    if library == "timm":
        return trained(timm.create_model(rest, num_classes=10))
    model = torchvision.models.get_model(rest, weights=None, num_classes=10)
    if rest == "vgg11_bn":  # 120 million of its weights are behind its last norm
        model.classifier = nn.Linear(512 * 7 * 7, 10)
    return trained(model)


NETWORKS = {
    "torchvision:resnet18": 20,
    "torchvision:resnet50": 53,
    "torchvision:mobilenet_v2": 52,
    "torchvision:vgg11_bn": 8,
    "timm:resnet26": 29,
    "timm:mobilenetv3_small_050": 34,
    "timm:repvgg_a0": 61,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folded_network_gives_the_same_logits(name: str) -> None:
    model = network(name)
    before = copy.deepcopy(model.state_dict())
    statistics = {n: layer.running_mean.clone() for n, layer in batch_norm_layers(model).items()}
    folded = fold_batch_norms(model)
    assert batch_norm_layers(folded.network) == {}
    assert folded.left == {}
    assert len(statistics) == NETWORKS[name]
    assert folded.statistics.keys() == folded.into.keys() == statistics.keys()
    assert all(torch.equal(folded.statistics[n][0], mean) for n, mean in statistics.items())
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        expected = exact(IMAGES.double())
        in_double = fold_batch_norms(exact).network(IMAGES.double())
        errors = [float((net(IMAGES) - expected).abs().max()) for net in (model, folded.network)]
    torch.testing.assert_close(in_double, expected, rtol=1e-11, atol=1e-11)
    # In float32 the folded network is as exact as the one that it was made of: of ResNet-50's random weights,
    # both are 1e-4 away from float64.
    assert errors[1] < max(1e-5, 2 * errors[0])
    assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())


def test_branches_become_one_convolution() -> None:
    model = network("timm:repvgg_a0")
    folded = fold_batch_norms(model)
    assert folded.into["stages.0.0.conv_kxk.bn"] == folded.into["stages.0.0.conv_1x1.bn"] == "stages.0.0"
    assert folded.into["stages.0.1.identity"] == "stages.0.1"
    assert type(folded.network.get_submodule("stages.0.0.reparam_conv")) is nn.Conv2d


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_one_convolution_by_hand(bias: bool, affine: bool) -> None:
    """w' = w γ / √(σ̃² + ε) and b' = (b − μ̃) γ / √(σ̃² + ε) + β, in float64."""
    torch.manual_seed(0)
    conv, bn = nn.Conv2d(3, 5, 3, bias=bias), nn.BatchNorm2d(5, affine=affine, eps=1e-2)
    bn.running_mean.copy_(torch.randn(5))
    bn.running_var.copy_(0.1 + torch.rand(5))
    if affine:
        nn.init.normal_(bn.weight)
        nn.init.normal_(bn.bias)
    folded = fold_batch_norms(nn.Sequential(conv, bn))
    gamma, beta = (bn.weight.double(), bn.bias.double()) if affine else (torch.ones(5), torch.zeros(5))
    scale = gamma / (bn.running_var.double() + 1e-2).sqrt()
    first = conv.bias.double() if bias else torch.zeros(5)
    new = folded.network[0]
    expected = conv.weight.double() * scale[:, None, None, None]
    torch.testing.assert_close(new.weight.double(), expected, rtol=1e-6, atol=1e-7)
    shift = (first - bn.running_mean) * scale + beta
    torch.testing.assert_close(new.bias.double(), shift, rtol=1e-6, atol=1e-7)
    assert type(folded.network[1]) is nn.Identity


SHAPES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), (9, 6)),
    "1d": (lambda: nn.Sequential(nn.Conv1d(6, 4, 3), nn.BatchNorm1d(4)), (9, 6, 8)),
    "3d": (lambda: nn.Sequential(nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4)), (5, 2, 6, 6, 6)),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(6, 4, 3), nn.BatchNorm2d(4)), (5, 6, 6, 6)),
    "grouped": (lambda: nn.Sequential(nn.Conv2d(6, 4, 3, groups=2), nn.BatchNorm2d(4)), (5, 6, 6, 6)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_kind_of_layer(shape: str) -> None:
    make, size = SHAPES[shape]
    torch.manual_seed(0)
    model = make()
    for _ in range(3):
        model.train()(1 + torch.randn(size))
    model.eval()
    folded = fold_batch_norms(model)
    assert folded.into == {"1": "0"}
    x = torch.randn(size)
    torch.testing.assert_close(folded.network(x), model(x), rtol=1e-5, atol=1e-5)


def test_frozen_norms_are_folded_too() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(norm_layer=FrozenBatchNorm2d, num_classes=10)
    for layer in model.modules():
        if isinstance(layer, FrozenBatchNorm2d):
            layer.running_mean.uniform_(-0.5, 0.5)
            layer.running_var.uniform_(0.5, 2.0)
    model.eval()
    folded = fold_batch_norms(model)
    assert len(folded.into) == 20
    with torch.no_grad():
        torch.testing.assert_close(folded.network(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-5)


class ScalingNorm(nn.BatchNorm2d):
    """A norm that does more than normalise."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Odd(nn.Module):
    """Norms that a convolution cannot take over, and one that it can."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.shared = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.first, self.used_twice, self.behind, self.again = (nn.BatchNorm2d(3) for _ in range(4))
        self.good, self.scaling = nn.BatchNorm2d(3), ScalingNorm(3)
        self.conv3, self.loose = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)
        self.own = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.conv1(x)
        x = self.used_twice(y) + y
        x = self.again(self.shared(self.behind(self.shared(x))))
        x = self.scaling(self.conv3(self.loose(self.conv2(x))))
        return self.good(self.own(x)).mean(dim=(2, 3))


def test_norms_that_cannot_be_folded_stay_and_are_named() -> None:
    torch.manual_seed(0)
    model = trained(Odd())
    folded = fold_batch_norms(model)
    assert folded.into == {"good": "own"}
    kept = dict.fromkeys(("first", "used_twice", "behind", "again"), NOT_BEHIND)
    assert folded.left == {**kept, "loose": NO_STATISTICS, "scaling": UNKNOWN}
    with torch.no_grad():
        torch.testing.assert_close(folded.network(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-5)


class Untraceable(nn.Module):
    """Its path depends on the images; its block's does not."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.conv, self.bn = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        if x.mean() > -1e9:
            x = self.bn(self.conv(x))
        return x.mean(dim=(2, 3))


def test_what_can_be_traced_of_a_network_is_folded() -> None:
    torch.manual_seed(0)
    model = trained(Untraceable())
    folded = fold_batch_norms(model)
    assert (folded.into, folded.left) == ({"block.1": "block.0"}, {"bn": NOT_TRACED})
    with torch.no_grad():
        torch.testing.assert_close(folded.network(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-5)


def test_networks_with_nothing_to_fold_are_refused() -> None:
    with pytest.raises(UserError, match="fold: Sequential has no BN layer, so there is nothing to fold"):
        fold_batch_norms(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(UserError, match="none of the 1 BN layers can be folded; 0: its input is not"):
        fold_batch_norms(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)))


# ------------------------------------------------------------ int8, and what was frozen in


def labelled(model: nn.Module, mean: float = 0.0) -> list[tuple[Tensor, Tensor]]:
    """Images with the network's own guesses as labels, so that its accuracy is 100 %."""
    generator = torch.Generator().manual_seed(7)
    images = [mean + torch.rand(16, 3, 64, 64, generator=generator) for _ in range(2)]
    with torch.no_grad():
        return [(batch, model(batch).argmax(dim=1)) for batch in images]


@pytest.mark.parametrize(
    ("name", "largest"),
    [("torchvision:resnet18", 1.0), ("torchvision:mobilenet_v2", 4.0), ("timm:repvgg_a0", 4.0)],
)
def test_an_int8_network_is_close_to_the_float_one(name: str, largest: float) -> None:
    """As close as int8 is with random weights: separable and re-parameterised convolutions lose most."""
    model = network(name)
    folded = fold_batch_norms(model).network
    small = quantised(folded, [IMAGES])
    names = {type(module).__module__ for module in small.modules()}
    assert any("quantized" in module for module in names)
    assert not any(type(module) is nn.Conv2d for module in small.modules())
    assert 0 < logit_difference(model, small, [IMAGES]) < largest
    assert any(type(module) is nn.Conv2d for module in folded.modules())


def test_deployment_tells_what_was_frozen_in() -> None:
    model = network("torchvision:resnet18")
    evaluation, training = labelled(model), labelled(model, mean=0.5)
    before = copy.deepcopy(model.state_dict())
    found = deploy(model, evaluation, training, int8=True)
    assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())
    rows = {(row.network, row.statistics): row for row in found.rows}
    forms = [(form, one) for one in ("its own", "re-estimated") for form in ("float", "folded", "int8")]
    assert list(rows) == forms
    assert (len(found.folded), found.left, found.num_images) == (20, {}, 32)
    assert rows["float", "its own"].top1_percent == rows["folded", "its own"].top1_percent == 100
    for one in ("its own", "re-estimated"):
        assert rows["folded", one].logit_difference < 1e-4 < rows["int8", one].logit_difference
        assert rows["folded", one].top1_percent == rows["float", one].top1_percent
    own = probe(model, evaluation).mean("esm_mu_scaled")
    assert rows["folded", "its own"].esm_mu_scaled == pytest.approx(own)
    # Folded by hand with PreciseBN's statistics.
    for name, (mean, var) in precise_statistics(model, training).items():
        layer = model.get_submodule(name)
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(var)
    expected = probe(model, evaluation).mean("esm_mu_scaled")
    assert rows["int8", "re-estimated"].esm_mu_scaled == pytest.approx(expected)
    with torch.no_grad():
        right = [model(images).argmax(1) == labels for images, labels in evaluation]
    percent = 100 * float(torch.cat(right).double().mean())
    assert rows["folded", "re-estimated"].top1_percent == pytest.approx(percent)
    frame = found.to_frame()
    assert frame.top1_gain_percent[0] == 0
    found.plot().to_dict()


def test_int8_that_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    folded: Any = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(UserError, match="int8: no images; the calibration batches are empty"):
        quantised(folded, [])
    with pytest.raises(UserError, match="int8: runs on CPUs only, and the network is on meta"):
        quantised(nn.Sequential(nn.Conv2d(3, 4, 3, device="meta")), [IMAGES])
    with pytest.raises(UserError, match=r"int8: torch\.fx cannot trace Untraceable: "):
        quantised(Untraceable(), [IMAGES])
    with pytest.raises(UserError, match="takes images in one tensor"):
        quantised(folded, [[IMAGES[0], IMAGES[1]]])
    monkeypatch.setattr("suite.shift.quantise.engine", lambda: "none")
    with pytest.raises(UserError, match="int8: this build of torch has no engine for int8"):
        quantised(folded, [IMAGES])
