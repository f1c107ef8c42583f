"""The MLP of the paper's experiments: its layers, its norms and one forward pass by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite.config import expand
from suite.errors import UserError
from suite.experiment import ModelSpec
from suite.models import build_model, convert, norm_sites
from suite.models.batch_free import GroupWhitening
from suite.shift.layers import batch_norm_layers
from suite.train.meter import flops_per_image


def mlp(arch: str = "mlp20", **norm: object) -> nn.Module:
    torch.manual_seed(0)
    spec = {"arch": arch, "norm": norm or {"kind": "bn"}, "num_classes": 10, "bn_momentum": 0.3}
    return build_model(ModelSpec.model_validate(spec))


@pytest.mark.parametrize(("arch", "hidden"), [("mlp10", 9), ("mlp20", 19)])
def test_parameters_by_hand(arch: str, hidden: int) -> None:
    expected = (784 + 1) * 100 + hidden * (100 + 1) * 100 + (100 + 1) * 10
    for norm in ({}, {"kind": "xbn"}, {"kind": "gn"}):  # no norm has any
        assert sum(p.numel() for p in mlp(arch, **norm).parameters()) == expected


def test_layers_in_forward_order_and_their_momentum() -> None:
    layers = batch_norm_layers(mlp())
    assert list(layers) == [f"pairs.{i}.bn{j}" for i in range(10) for j in (1, 2)]
    assert {(bn.num_features, bn.momentum, bn.affine) for bn in layers.values()} == {(100, 0.3, False)}


@pytest.mark.parametrize(("position", "kept"), [("p2", "bn1"), ("p1", "bn2")])
def test_gnbn_takes_every_second_layer(position: str, kept: str) -> None:
    model = mlp(kind="xbn", position=position, num_groups=5)
    assert list(batch_norm_layers(model)) == [f"pairs.{i}.{kept}" for i in range(10)]
    groups = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    assert [(g.num_groups, g.num_channels, g.weight) for g in groups] == [(5, 100, None)] * 10
    assert {len(site.roles) for site in norm_sites(mlp())} == {1}


def _standardised(x_ND: Tensor, dim: int) -> Tensor:
    mean, var = x_ND.mean(dim, keepdim=True), x_ND.var(dim, correction=0, keepdim=True)
    return (x_ND - mean) / (var + 1e-5).sqrt()


def test_a_forward_pass_by_hand() -> None:
    """Pixels in [0, 1] of the first channel; BN over samples, then GN over ten units of a sample."""
    model = mlp("mlp10", kind="xbn").train()
    pixels_NHW = torch.rand(6, 28, 28)
    y_ND = pixels_NHW.flatten(1)
    for pair in model.pairs:
        y_ND = F.relu(_standardised(y_ND @ pair.linear1.weight.T + pair.linear1.bias, 0))
        y_ND = y_ND @ pair.linear2.weight.T + pair.linear2.bias
        y_ND = F.relu(_standardised(y_ND.reshape(6, 10, 10), 2).reshape(6, 100))
    expected_NK = y_ND @ model.fc.weight.T + model.fc.bias
    # As the loaders give it: normalised by ImageNet's first channel; the other channels do not matter.
    images_NCHW = torch.stack([(pixels_NHW - 0.485) / 0.229, *torch.randn(2, 6, 28, 28)], dim=1)
    torch.testing.assert_close(model(images_NCHW), expected_NK, rtol=1e-3, atol=1e-4)


def test_weights_begin_with_variance_one_over_inputs() -> None:
    first, *others = (m.weight.detach() for m in mlp().pairs.modules() if isinstance(m, nn.Linear))
    assert float(first.var()) == pytest.approx(1 / 784, rel=0.03)
    assert all(float(w.var()) == pytest.approx(1 / 100, rel=0.1) for w in others)


@pytest.mark.parametrize("bfn", ["gn", "ln", "gw"])
def test_every_norm_trains_without_affine_parameters(bfn: str) -> None:
    model = mlp("mlp10", kind="xbn", bfn=bfn)
    model(torch.randn(4, 3, 28, 28)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    whitening = [m for m in model.modules() if isinstance(m, GroupWhitening)]
    assert len(whitening) == (5 if bfn == "gw" else 0)
    assert all(w.weight is None and w.bias is None for w in whitening)


def test_affine_parameters_follow_those_of_the_norm_that_is_replaced() -> None:
    for affine in (True, False):
        model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, affine=affine))
        gn = ModelSpec.model_validate({"arch": "resnet18", "norm": {"kind": "xbn", "num_groups": 2}}).norm
        assert (convert(model, gn, sites=["1"])[1].weight is not None) is affine


def test_its_work_is_counted() -> None:
    """Forward, weights' gradients, and inputs' gradients, which the first layer does not need."""
    model = mlp()
    multiplications = 784 * 100 + 19 * 100 * 100 + 100 * 10
    image = torch.zeros(1, 3, 28, 28)
    assert flops_per_image(model, lambda net: net.eval()(image).sum()) == 2 * (
        3 * multiplications - 784 * 100
    )


BASE = {
    "model": {"arch": "mlp20"},
    "data": {"name": "fashion-mnist-7k", "image_size": 28, "train_images": 64},
    "batch": {"global_batch_size": 64},
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": {"image_size": 32}}, "data.image_size is 32, but mlp20 takes images of 28 × 28"),
        ({"batch": {"norm_batch_size": 8}}, "norms of mlp20 see the whole batch_size_per_gpu of 64"),
        ({"model": {"norm": {"kind": "xbn", "position": "p3"}}}, "mlp20 has positions p1 and p2"),
        ({"model": {"norm": {"kind": "xbn", "stem": True}}}, "there is no p3, stem or downsample"),
        ({"model": {"norm": {"kind": "xbn", "downsample": True}}}, "there is no p3, stem or downsample"),
        ({"model": {"norm": {"kind": "xbn", "bfn": "in"}}}, "in has no meaning for mlp20"),
        ({"model": {"norm": {"kind": "in"}}}, "in has no meaning for mlp20"),
    ],
)
def test_refusals(change: dict[str, dict[str, object]], words: str) -> None:
    content = {name: {**section, **change.get(name, {})} for name, section in BASE.items()}
    with pytest.raises(UserError, match=words) as refusal:
        expand(content, "mlp")
    assert "\n" not in str(refusal.value)


def test_labels_name_no_stem_where_there_is_none() -> None:
    content = {**BASE, "model": {"arch": "mlp20", "norm": {"kind": "xbn"}}}
    assert expand(content, "mlp").runs[0].label == "mlp20 XBN-P2-GN10 nb64 seed 0"
