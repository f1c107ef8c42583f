"""The probe against statistics computed in float64 over all activations at once, on one rank and on two."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from scipy import stats as scipy_stats
from torch import Tensor, nn

from suite.errors import UserError
from suite.models.batch_norm import GhostBatchNorm2d
from suite.shift import ShiftProfile, precise_statistics, probe, with_statistics
from suite.shift.layers import batch_norm_layers
from suite.shift.moments import ChannelMoments, batch_moments
from suite.shift.probe import signed_square
from tests.helpers.ranks import on_ranks

METRICS = ("esm_mu", "esm_sigma", "esm_mu_scaled", "esm_sigma_scaled")


def mlp() -> nn.Module:
    layers = [
        part for _ in range(3) for part in (nn.Linear(48, 48, bias=False), nn.BatchNorm1d(48), nn.ReLU())
    ]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(48, 10))


def network(name: str) -> nn.Module:
    """A network whose estimates are off, in ways that differ by layer and channel."""
    torch.manual_seed(0)
    model = mlp() if name == "mlp" else torchvision.models.get_model(name, weights=None, num_classes=10)
    for layer in batch_norm_layers(model).values():
        layer.running_mean.normal_(0, 0.3)
        layer.running_var.uniform_(0.5, 2.0)
    return model


def images(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(23, 3, *((4, 4) if name == "mlp" else (40, 40)), generator=generator)


def by_concatenation(model: nn.Module, x_NCHW: Tensor) -> dict[str, tuple[float, float, float, float]]:
    """The four measures from all activations of every layer, kept whole and taken in float64."""
    inputs: dict[str, Tensor] = {}
    layers = batch_norm_layers(model)
    hooks = [
        m.register_forward_pre_hook(lambda _, args, n=n: inputs.__setitem__(n, args[0]))
        for n, m in layers.items()
    ]
    with torch.no_grad():
        model.eval()(x_NCHW)
    for hook in hooks:
        hook.remove()
    result = {}
    for name, x in inputs.items():
        x_CM = x.double().transpose(0, 1).flatten(1)
        mean, var = x_CM.mean(1), x_CM.var(1, correction=0)
        d_mu = mean - layers[name].running_mean
        d_sigma = var.sqrt() - layers[name].running_var.double().sqrt()
        unit = (var + 1e-5).sqrt()
        result[name] = (
            d_mu.square().sum().sqrt().item(),
            d_sigma.square().sum().sqrt().item(),
            (d_mu / unit).square().mean().sqrt().item(),
            (d_sigma / unit).square().mean().sqrt().item(),
        )
    return result


def assert_agrees(profile: ShiftProfile, expected: dict[str, tuple[float, float, float, float]]) -> None:
    assert [layer.name for layer in profile.layers] == list(expected)
    for layer in profile.layers:
        measured = [getattr(layer, metric) for metric in METRICS]
        assert measured == pytest.approx(expected[layer.name], rel=1e-5), layer.name


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mlp"])
def test_probe_agrees_with_float64_over_all_activations(name: str) -> None:
    model, x = network(name), images(name)
    expected = by_concatenation(model, x)
    assert_agrees(probe(model, x.split(7)), expected)
    with pytest.raises(AssertionError):
        assert_agrees(probe(model, x[:-1].split(7)), expected)  # one image less is seen


def probe_a_share(rank: int, world_size: int) -> dict[str, ShiftProfile]:
    # Uneven shares; the third rank, where there is one, has none.
    shares = {2: (slice(0, 9), slice(9, 23)), 3: (slice(0, 9), slice(9, 23), slice(23, 23))}
    profiles = {}
    for name in ("resnet18", "mobilenet_v2", "mlp"):
        share = images(name)[shares[world_size][rank]]
        profiles[name] = probe(network(name), share.split(5) if len(share) else [])
    return profiles


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_agree_on_the_profile_of_all_images(tmp_path: Path, world_size: int) -> None:
    results = on_ranks(probe_a_share, world_size, tmp_path)
    for name in ("resnet18", "mobilenet_v2", "mlp"):
        expected = by_concatenation(network(name), images(name))
        for profiles in results:
            assert profiles[name].num_images == 23
            assert_agrees(profiles[name], expected)


def test_one_layer_by_hand() -> None:
    """Two channels: 1 3 and 0 8. Means 2 and 4, deviations 1 and 4; estimates 0, 0 and 1, 1."""
    model = nn.Sequential(nn.BatchNorm1d(2, eps=0.0))
    (layer,) = probe(model, [torch.tensor([[1.0, 0.0], [3.0, 8.0]])], per_channel=True).layers
    assert layer.esm_mu == pytest.approx(math.sqrt(2**2 + 4**2))
    assert layer.esm_sigma == pytest.approx(math.sqrt(0**2 + 3**2))
    assert layer.esm_mu_scaled == pytest.approx(math.sqrt((2**2 + 1**2) / 2))
    assert layer.esm_sigma_scaled == pytest.approx(math.sqrt((0**2 + 0.75**2) / 2))
    assert layer.mu_difference_C.tolist() == pytest.approx([2, 4])
    assert layer.sigma_difference_C.tolist() == pytest.approx([0, 3])


def test_the_cross_half_product_by_hand() -> None:
    """Batches of means 2, 5, 4 and 1: the even ones have mean 3, the odd ones 3, both against 0.

    Without one batch each: 4, 2 of the even; 1, 5 of the odd. So the product is 9, or 12, 6, 3 and 15.
    """
    batches = [torch.tensor([[mean - 1.0], [mean + 1.0]]) for mean in (2, 5, 4, 1)]
    model = nn.Sequential(nn.BatchNorm1d(1, eps=0.0))
    (layer,) = probe(model, batches).layers
    assert layer.esm_mu_cross == pytest.approx(3)
    # Each half has two batches of one half each: pseudo-values 6 and 12, and 15 and 3, about 9.
    product = layer.products["esm_mu_cross"]
    assert product.error == pytest.approx(math.hypot(3, 6))
    # Satterthwaite's: one degree of freedom in each half.
    assert product.degrees == pytest.approx((9 + 36) ** 2 / (81 + 1296))
    unit = math.sqrt(1 + 2.5)  # the variance of all values: 1 within, 2.5 between the batches
    assert layer.esm_mu_scaled_cross == pytest.approx(3 / unit)
    low, high = layer.interval("esm_mu_cross")
    half = scipy_stats.t.ppf(0.975, product.degrees) * math.hypot(3, 6)
    assert (low, high) == pytest.approx((-math.sqrt(half - 9), math.sqrt(half + 9)), rel=1e-6)
    for count in (1, 2, 3):
        (layer,) = probe(model, batches[:count]).layers
        assert all(math.isnan(end) for end in layer.interval("esm_mu_cross"))
    assert probe(model, batches[:2]).layers[0].esm_mu_cross == pytest.approx(math.sqrt(2 * 5))


def correlated(generator: torch.Generator, num_batches: int, kind: str) -> Tensor:
    """Batches of 16 values in 16 channels that correlate by 0.64 and have mean 0.3 and variance 1."""
    options: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
    shared, own = (torch.randn(num_batches, 16, channels, **options) for channels in (1, 16))
    if kind == "skewed":  # squares of normal values, of skewness 2.8
        shared, own = ((x.square() - 1) / math.sqrt(2) for x in (shared, own))
    return (0.8 * shared + 0.6 * own + 0.3).float()


@pytest.mark.parametrize(("num_batches", "kind"), [(6, "normal"), (20, "skewed")])
def test_the_cross_half_product_has_no_bias_and_its_interval_covers(num_batches: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(num_batches)
    truth, found = 16 * 0.3**2, []
    for _ in range(300):
        batches = list(correlated(generator, num_batches, kind))
        (layer,) = probe(nn.Sequential(nn.BatchNorm1d(16)), batches).layers
        low, high = layer.interval("esm_mu_cross")
        covers = signed_square(low) <= truth <= signed_square(high)
        found.append([signed_square(layer.esm_mu_cross), layer.esm_mu**2, covers])
    product, plug_in, coverage = (float(one) for one in torch.tensor(found).mean(0))
    sampling = 16 / (16 * num_batches)  # what the error of the mean adds to the square
    assert product == pytest.approx(truth, abs=4 * 2.1 / math.sqrt(300 * num_batches))
    assert plug_in - product == pytest.approx(sampling, rel=0.35)
    # The error of a share of 0.95 in 300 draws is 0.013.
    assert 0.91 < coverage < 0.99


def test_a_large_mean_costs_the_variance_no_digits() -> None:
    x = torch.randn(4000, 3, 2, 2, generator=torch.Generator().manual_seed(0)) + 4096
    moments = ChannelMoments(3, torch.device("cpu"))
    for part in x.split(37):
        moments.update(part)
    exact = x.double().var((0, 2, 3), correction=0)
    torch.testing.assert_close(moments.var_C, exact, rtol=1e-5, atol=0)
    naive = x.square().mean((0, 2, 3)) - x.mean((0, 2, 3)).square()
    assert not torch.allclose(naive.double(), exact, rtol=1e-2), "the naive formula should fail here"


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 5), (6, 4, 5, 3), (6, 4, 2, 3, 2)])
def test_moments_of_every_rank_of_tensor(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        cast = x.to(dtype)
        wide = cast.double().transpose(0, 1).flatten(1)
        mean, var = batch_moments(cast)
        torch.testing.assert_close(mean.double(), wide.mean(1), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(var.double(), wide.var(1, correction=0), rtol=1e-5, atol=1e-6)
    if len(shape) == 4:
        torch.testing.assert_close(
            batch_moments(x.to(memory_format=torch.channels_last))[0], batch_moments(x)[0]
        )


def test_the_model_is_restored() -> None:
    model = network("resnet18").train()
    model.layer1[0].bn1.eval()  # a frozen layer
    modes = [m.training for m in model.modules()]
    state = {n: v.clone() for n, v in model.state_dict().items()}

    def failing() -> Iterator[Tensor]:
        yield images("resnet18")[:4]
        raise RuntimeError("the disk is gone")

    probe(model, [images("resnet18")[:4]])
    precise_statistics(model, [images("resnet18")[:4]])
    for measure in (probe, precise_statistics):
        with pytest.raises(RuntimeError, match="the disk is gone"):
            measure(model, failing())
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, state[n]) for n, v in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_layers_that_cannot_be_measured_are_named() -> None:
    model = nn.ModuleDict({"used": nn.BatchNorm1d(2), "bare": nn.BatchNorm1d(2, track_running_stats=False)})
    model["idle"] = nn.BatchNorm1d(2)
    model.forward = lambda x: model["bare"](model["used"](x))
    profile = probe(model, [torch.randn(5, 2)])
    assert [layer.name for layer in profile.layers] == ["used"]
    assert profile.skipped == {
        "idle": "not called in the forward pass",
        "bare": "keeps no running statistics",
    }
    assert probe(nn.Linear(2, 2), [torch.randn(3, 2)]).layers == ()
    with pytest.raises(UserError, match="no images"):
        probe(network("mlp"), [])


def test_precise_statistics_are_the_size_weighted_moments_of_training_batches() -> None:
    model, x = network("mlp"), images("mlp")
    parts = x.split(9)
    inputs: list[list[Tensor]] = [[], [], []]
    layers = list(batch_norm_layers(model).values())
    with torch.no_grad():
        for part in parts:  # upstream in training mode: each layer normalises with the batch's statistics
            h = part.flatten(1)
            for i, layer in enumerate(layers):
                h = model[1 + 3 * i](h)
                inputs[i].append(h)
                h = torch.relu(
                    torch.nn.functional.batch_norm(h, None, None, layer.weight, layer.bias, training=True)
                )
    statistics = precise_statistics(model, parts)
    for values, (mean, var) in zip(inputs, statistics.values(), strict=True):
        n = sum(len(v) for v in values)
        mu = sum(len(v) * v.double().mean(0) for v in values) / n
        second = sum(len(v) * (v.double().mean(0) ** 2 + v.double().var(0, correction=0)) for v in values) / n
        torch.testing.assert_close(mean, mu, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(var, second - mu**2, rtol=1e-5, atol=1e-7)


def test_with_statistics_replaces_the_estimates_inside_only() -> None:
    model, x = network("mlp").eval(), images("mlp")
    before = model(x)
    # Full-batch statistics turn inference into the training-mode pass over the same batch.
    statistics = precise_statistics(model, [x])
    with with_statistics(model, statistics):
        inside = model(x)
    assert torch.equal(model(x), before)
    torch.testing.assert_close(inside, model.train()(x), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(inside, before, atol=1e-2)


def test_ghost_layers_are_probed_too() -> None:
    model = nn.Sequential(GhostBatchNorm2d(3, 2))
    (layer,) = probe(model, [torch.randn(4, 3, 2, 2)]).layers
    assert layer.name == "0"
