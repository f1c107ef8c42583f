"""Soups of checkpoints and points between two, and their statistics, against computations by hand."""

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from suite.errors import UserError
from suite.shift import interpolated, precise_statistics, probe, re_estimate, soup


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(*layers, nn.Linear(4, 3))
    model.train()(3 + torch.randn(16, 3, 8, 8))
    model[1].num_batches_tracked.fill_(seed)
    return model.eval()


def states(*seeds: int) -> dict[str, dict[str, Tensor]]:
    return {f"{seed}.pt": network(seed).state_dict() for seed in seeds}


def test_a_soup_is_the_mean_in_float64() -> None:
    found, parts = soup(states(1, 2, 3)), list(states(1, 2, 3).values())
    for key, value in found.items():
        if key.endswith("num_batches_tracked"):
            assert int(value) == 1
            continue
        mean = sum(part[key].double() for part in parts) / 3
        assert isinstance(mean, Tensor)
        torch.testing.assert_close(value.double(), mean, rtol=1e-7, atol=0)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_a_point_between_two(alpha: float) -> None:
    found = interpolated(states(1, 2), alpha)
    (one, other), near = states(1, 2).values(), 1 if alpha <= 0.5 else 2
    for key, value in found.items():
        if key.endswith("num_batches_tracked"):
            assert int(value) == near
            continue
        expected = (1 - alpha) * one[key].double() + alpha * other[key].double()
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
    if alpha in (0.0, 1.0):
        assert all(torch.equal(value, (one, other)[int(alpha)][key]) for key, value in found.items())


def test_an_end_does_not_see_the_other() -> None:
    damaged = {name: value.clone() for name, value in network(2).state_dict().items()}
    damaged["5.bias"].fill_(float("inf"))
    found = interpolated({"a": network(1).state_dict(), "b": damaged}, 0.0)
    assert torch.equal(found["5.bias"], network(1).state_dict()["5.bias"])


def test_state_dicts_that_do_not_fit_are_named() -> None:
    resnets = {
        "a.pt": torchvision.models.resnet18(num_classes=10).state_dict(),
        "b.pt": torchvision.models.resnet18(num_classes=7).state_dict(),
    }
    sentence = r"b\.pt: fc\.weight has the shape \(7, 512\), and \(10, 512\) in a\.pt"
    with pytest.raises(UserError, match=sentence):
        soup(resnets)
    less = {"a.pt": resnets["a.pt"], "b.pt": {k: v for k, v in resnets["a.pt"].items() if k != "fc.bias"}}
    with pytest.raises(UserError, match=r"b\.pt: has no fc\.bias, which a\.pt has"):
        soup(less)
    with pytest.raises(UserError, match=r"a\.pt: has no fc\.bias, which b\.pt has"):
        interpolated({"a.pt": less["b.pt"], "b.pt": less["a.pt"]}, 0.5)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: soup(states(1)), "a soup takes two state dicts or more, got 1"),
        (lambda: interpolated(states(1, 2, 3), 0.5), "an interpolation takes two state dicts, got 3"),
        (lambda: interpolated(states(1, 2), 1.5), r"alpha must lie in \[0, 1\], got 1.5"),
    ],
)
def test_other_numbers_are_refused(call: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        call()


def batches(seed: int, mean: float) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(mean + torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8) % 3) for _ in range(3)]


def test_a_soup_with_its_own_statistics_and_with_re_estimated_ones() -> None:
    """One layer: its input is the convolution's output, whose moments are computed by hand."""
    model = network(1)
    model.load_state_dict(soup(states(1, 2)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluation, training = batches(5, 3.0), batches(6, 2.0)
    found = re_estimate(model, evaluation, training)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        x, t = (
            model[0](torch.cat([images for images, _ in part])).double().transpose(0, 1).flatten(1)
            for part in (evaluation, training)
        )
    expected = (x.mean(1) - t.mean(1), x.std(1, correction=0) - t.std(1, correction=0))
    (layer,) = found.re_estimated.profile.layers
    assert layer.esm_mu == pytest.approx(float(expected[0].norm()), rel=1e-5)
    assert layer.esm_sigma == pytest.approx(float(expected[1].norm()), rel=1e-4)
    assert found.own.profile.values("esm_mu") == probe(model, evaluation).values("esm_mu")
    frame = found.to_frame()
    assert list(frame.statistics) == ["its own", "re-estimated"]
    for row, statistics in zip(frame.itertuples(), ({}, precise_statistics(model, training)), strict=True):
        for mean, var in statistics.values():
            model[1].running_mean.copy_(mean)
            model[1].running_var.copy_(var)
        with torch.no_grad():
            right = [model(images).argmax(1) == labels for images, labels in evaluation]
        assert row.top1_percent == pytest.approx(100 * float(torch.cat(right).double().mean()))
    found.plot().to_dict()


def test_without_labels_there_is_the_shift_alone() -> None:
    found = re_estimate(network(1), [images for images, _ in batches(5, 3.0)], batches(6, 2.0))
    assert found.own.top1_percent is None
    assert found.to_frame().top1_percent.isna().all()
    with pytest.raises(UserError, match="re-estimation: Sequential has no BN layer"):
        re_estimate(nn.Sequential(nn.Linear(3, 3)), batches(5, 3.0), batches(6, 2.0))
