"""BN's variants are measured as BN is, and MABN about 0, as it estimates."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from suite.models import convert, set_norm_batch_size
from suite.models.norms import mabn
from suite.shift import TidMeter, attribute, probe, remedies
from suite.shift.diagnosis.observe import BatchWatch
from suite.shift.layers import batch_norm_layers
from suite.shift.precise import bias_corrected_statistics, precise_statistics, with_statistics

KINDS = ("brn", "mabn", "bcbn")
Batches = list[tuple[Tensor, Tensor]]


def network(kind: str) -> nn.Sequential:
    """Two norms behind convolutions, trained for three batches."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)]
    model = convert(nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 16, 3)), kind)
    assert isinstance(model, nn.Sequential)
    for images, _ in data(3, seed=1):
        model(images).square().mean().backward()
    return model.eval()


def data(count: int, seed: int = 0) -> Batches:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 10, 3, 8, 8, generator=generator) + 0.5
    return [(x, torch.arange(10) % 3) for x in images]


def inputs(model: nn.Module, batches: Batches) -> dict[str, Tensor]:
    """All inputs of each norm in inference mode, (N, C, H, W) float64."""
    seen: dict[str, list[Tensor]] = {name: [] for name in batch_norm_layers(model)}
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0].double()))
        for name, layer in batch_norm_layers(model).items()
    ]
    with torch.no_grad():
        for images, _ in batches:
            model(images)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_esm_compares_what_inference_uses_with_what_it_should(kind: str) -> None:
    model, batches = network(kind), data(6)
    profile = probe(model, batches)
    assert [layer.name for layer in profile.layers] == ["1", "4"]
    for shift, (name, x) in zip(profile.layers, inputs(model, batches).items(), strict=True):
        layer = batch_norm_layers(model)[name]
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        if kind == "mabn":
            mean, var = torch.zeros_like(mean), x.square().mean((0, 2, 3))
        differences = mean - layer.running_mean, var.sqrt() - layer.running_var.double().sqrt()
        assert (shift.esm_mu, shift.esm_sigma) == pytest.approx(
            [float(d.norm()) for d in differences], rel=1e-5
        )
        scaled = differences[1] / (var + 1e-5).sqrt() / len(var) ** 0.5
        assert shift.esm_sigma_scaled == pytest.approx(float(scaled.norm()), rel=1e-5)
        assert shift.esm_sigma > 0.01
    # With exact estimates in the first layer, there is no shift in it.
    with with_statistics(model, precise_statistics(model, batches)):
        first = probe(model, batches).layers[0]
    assert (first.esm_mu, first.esm_sigma) == pytest.approx((0, 0), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_remedies_and_attribution_take_them_and_leave_them_as_they_were(kind: str) -> None:
    model, batches = network(kind), data(4)
    before = copy.deepcopy(model.state_dict())
    frozen, corrected, precise, *_ = remedies(model, batches, data(3, seed=1)).rows
    assert precise.name == "PreciseBN"
    if kind == "bcbn":  # three batches of the same weights: nothing to correct
        assert corrected.esm_sigma == pytest.approx(frozen.esm_sigma)
    else:
        assert max(corrected.esm_sigma, precise.esm_sigma) < frozen.esm_sigma
    split = attribute(model, batches)
    expected = probe(model, batches).values("esm_sigma_scaled")
    assert [layer.sigma.esm for layer in split.layers] == pytest.approx(expected, rel=1e-6)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_estimates_that_correct_themselves_are_not_corrected_again() -> None:
    for kind, is_corrected in (("bcbn", True), ("brn", False)):
        model = network(kind)
        mean, var = bias_corrected_statistics(model)["1"]
        layer = batch_norm_layers(model)["1"]
        is_same = torch.equal(mean, layer.running_mean.double()) and torch.equal(
            var, layer.running_var.double()
        )
        assert is_same is is_corrected


def statistics(norm: Any, group: Tensor) -> tuple[Tensor, Tensor]:
    """μ_B and σ_B, with ε, of a group by which a norm is measured, float64."""
    if norm.centres:
        return group.mean((0, 2, 3)), (group.var((0, 2, 3), correction=0) + norm.eps).sqrt()
    return torch.zeros(3, dtype=torch.float64), (group.square().mean((0, 2, 3)) + norm.eps).sqrt()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [8, 2])
def test_tid_is_that_of_the_batches(kind: str, size: int) -> None:
    """Of groups, the mean statistic with the weights that they have in the running average."""
    model = convert(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, momentum=0.3)), kind)
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3)[:, :, None, None] * torch.tensor([0.5, 1, 2])[:, None, None, None])
    set_norm_batch_size(model, size, 8, torch.device("cpu"))
    norm = model[1]
    meter = TidMeter(model, torch.randn(2, 3, 4, 4), norm_batch_size=size)
    tid: list[tuple[float, float]] = []
    for seed in range(3):
        images = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) + 1
        model.train()
        model(images)
        meter.update()
        groups = model[0](images).detach().double().split(size)
        weights = torch.tensor([0.7**i for i in reversed(range(len(groups)))], dtype=torch.float64)
        weights /= weights.sum()
        pairs = [statistics(norm, group) for group in groups]
        mean = sum(w * pair[0] for w, pair in zip(weights, pairs, strict=True))
        sigma = sum(w * pair[1] ** 2 for w, pair in zip(weights, pairs, strict=True)) ** 0.5
        distance = ((norm.running_mean - mean).abs() / sigma).mean()
        ratio = ((norm.running_var.double() + norm.eps).sqrt() / sigma - 1).abs().mean()
        tid.append((float(distance), float(ratio)))
    (found_mu,), (found_sigma,) = meter.pop_epoch_means()
    mu, sigma = (sum(values) / 3 for values in zip(*tid, strict=True))
    assert found_mu == pytest.approx(mu, rel=1e-4, abs=1e-6)
    assert found_sigma == pytest.approx(sigma, rel=1e-4)
    assert (found_mu == 0) is (kind == "mabn")


def test_a_diagnosis_weighs_batches_as_a_corrected_average_does() -> None:
    norm = convert(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), "bcbn")[1]
    norm.num_batches_tracked.fill_(1)
    watch = BatchWatch(norm)
    for value in (2.0, 6.0):
        watch.update(4, 64, torch.full((3,), value), torch.ones(3))
    # Weights (1 − m)^(t − i) over their sum, with m = 0.1 and one earlier batch of mean 1.
    expected = (0.81 * 1 + 0.9 * 2 + 6) / (0.81 + 0.9 + 1)
    mean, _ = watch.average.started_at((torch.ones(3), torch.ones(3)))
    assert mean.tolist() == pytest.approx([expected] * 3)


def test_moving_averages_are_the_statistic_that_tid_compares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mabn, "AVERAGING_FROM_BATCH", 2)
    model = convert(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), {"kind": "mabn", "window": 2})
    meter = TidMeter(model, torch.randn(2, 3, 4, 4), norm_batch_size=8)
    squares = []
    for seed in range(4):
        images = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * (seed + 1)
        model.train()
        model(images)
        meter.update()
        squares.append(model[0](images).detach().double().square().mean((0, 2, 3)))
        if seed < 3:
            meter.pop_epoch_means()
    average = (squares[2] + squares[3]) / 2 + model[1].eps
    expected = ((model[1].running_var + model[1].eps) / average).sqrt().sub(1).abs().mean()
    assert meter.pop_epoch_means()[1][0] == pytest.approx(float(expected), rel=1e-4)
