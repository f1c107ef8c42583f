"""Remedies and noise on the estimates, by hand and against training mode."""

import math

import pytest
import torch
from torch import Tensor, nn

from suite.errors import UserError
from suite.models import set_norm_batch_size
from suite.shift import bias_corrected_statistics, perturb, probe, remedies, replayed_statistics
from suite.shift.layers import batch_norm_layers
from suite.shift.perturb import _perturbed
from tests.helpers.layers import batch_norm

# Means 2 and 5, biased variances 1 and 4, unbiased ones 2 and 8.
ONE, OTHER = torch.tensor([[1.0], [3.0]]), torch.tensor([[3.0], [7.0]])
LABELS = torch.tensor([0, 0])


def single() -> nn.Module:
    return nn.Sequential(batch_norm([0], [1]))


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8),
        nn.Flatten(), nn.Linear(8 * 16, 4), nn.Dropout(0.5),
    )  # fmt: skip
    for layer in batch_norm_layers(model).values():
        layer.running_mean.normal_(0, 0.5)
        layer.running_var.uniform_(0.2, 3)
    return model


def labelled() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(30, 3, 8, 8, generator=generator)
    labels = torch.randint(0, 4, (30,), generator=generator)
    return list(zip(images.split(12), labels.split(12), strict=True))


def outputs_of_last_pass(model: nn.Module, num_batches: int, measure: object) -> list[Tensor]:
    seen: list[Tensor] = []
    hook = model.register_forward_hook(lambda _, __, out: seen.append(out.clone()))
    measure()
    hook.remove()
    return seen[-num_batches:]


def test_every_remedy_is_in_the_table_and_the_model_is_restored() -> None:
    model = network().train()
    model[1].momentum, model[4].momentum = None, 0.3
    state = {n: v.clone() for n, v in model.state_dict().items()}
    table = remedies(
        model, labelled(), [images for images, _ in labelled()], momenta=[0.5], source_images=[16]
    )
    names = [
        "frozen",
        "bias-corrected estimates",
        "PreciseBN",
        "momentum 0.5 replayed",
        "prediction-time BN",
        "α-BN, N = 16",
    ]
    assert [row.name for row in table.rows] == names
    assert table.num_images == 30
    assert all(torch.equal(v, state[n]) for n, v in model.state_dict().items())
    assert (model.training, model[1].momentum, model[4].momentum) == (True, None, 0.3)
    assert not any(m._forward_pre_hooks for m in model.modules())
    short = remedies(model, labelled(), source_images=[])
    assert [row.name for row in short.rows] == ["frozen", "bias-corrected estimates", "prediction-time BN"]


def test_frozen_is_plain_inference() -> None:
    model, batches = network(), labelled()
    (frozen, *_), profile = remedies(model, batches).rows, probe(model, batches)
    model.eval()
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in batches)
    assert frozen.accuracy_percent == pytest.approx(100 * right / 30)
    assert frozen.esm_mu == pytest.approx(profile.mean("esm_mu"), rel=1e-12)
    assert frozen.esm_sigma == pytest.approx(profile.mean("esm_sigma"), rel=1e-12)
    assert frozen.esm_mu_scaled == pytest.approx(profile.mean("esm_mu_scaled"), rel=1e-12)
    assert frozen.esm_sigma_scaled == pytest.approx(profile.mean("esm_sigma_scaled"), rel=1e-12)


def test_prediction_time_bn_is_training_mode_of_bn_alone() -> None:
    model, batches = network(), labelled()
    seen = outputs_of_last_pass(model, 3, lambda: remedies(model, batches, source_images=[]))
    model.eval()
    for layer in batch_norm_layers(model).values():
        layer.train()
    for out, (x, _) in zip(seen, batches, strict=True):
        torch.testing.assert_close(out, model(x), rtol=1e-4, atol=1e-5)


def test_prediction_time_esm_by_hand() -> None:
    row = remedies(single(), [(ONE, LABELS), (OTHER, LABELS)], source_images=[]).rows[-1]
    sigma = math.sqrt(4.75)  # of 1 3 3 7, about 3.5
    assert row.esm_mu == pytest.approx(1.5)  # 2 and 5 about 3.5
    assert row.esm_mu_scaled == pytest.approx(1.5 / sigma, rel=1e-5)
    assert row.esm_sigma == pytest.approx(math.sqrt(((sigma - 1) ** 2 + (sigma - 2) ** 2) / 2))
    alone = remedies(single(), [(ONE, LABELS)], source_images=[]).rows[-1]
    assert (alone.esm_mu, alone.esm_sigma) == pytest.approx((0, 0), abs=1e-7)


def test_alpha_bn_by_hand() -> None:
    """N = 6 pseudo-images of mean 0, variance 1, and n = 2 of mean 2, variance 1, or mean 5, variance 4."""
    model, batches = single(), [(ONE, LABELS), (OTHER, LABELS)]
    seen = outputs_of_last_pass(model, 2, lambda: remedies(model, batches, source_images=[6]))
    torch.testing.assert_close(seen[0], (ONE - 0.5) / 1.0)
    torch.testing.assert_close(seen[1], (OTHER - 1.25) / math.sqrt(1.75))
    row = remedies(model, batches, source_images=[6]).rows[-1]
    assert row.esm_mu == pytest.approx(math.sqrt(((3.5 - 0.5) ** 2 + (3.5 - 1.25) ** 2) / 2))


def test_a_replay_by_hand() -> None:
    mean, var = replayed_statistics(single(), [ONE, OTHER], 0.5)["0"]
    assert (mean.item(), var.item()) == pytest.approx((3.0, 4.75))  # 0 → 1 → 3 and 1 → 1.5 → 4.75
    mean, var = replayed_statistics(single(), [ONE, OTHER], 1.0)["0"]
    assert (mean.item(), var.item()) == pytest.approx((5.0, 8.0))


def test_bias_corrected_estimates_by_hand() -> None:
    """Three batches of mean 2 and unbiased variance 2, with m = 0.5: r is 1.75 and 1.875, and k = 1/8."""
    layer = nn.BatchNorm1d(1, momentum=0.5)
    for _ in range(3):
        layer(ONE)
    assert (layer.running_mean.item(), layer.running_var.item()) == pytest.approx((1.75, 1.875))
    ((mean, var),) = bias_corrected_statistics(layer).values()
    assert (mean.item(), var.item()) == pytest.approx((2.0, 2.0))


def test_ghost_groups_count_as_batches() -> None:
    model = set_norm_batch_size(nn.Sequential(nn.BatchNorm2d(1)), 2, 4, torch.device("cpu"))
    model(torch.cat([ONE, ONE]).view(4, 1, 1, 1))
    ((mean, var),) = bias_corrected_statistics(model).values()
    assert (mean.item(), var.item()) == pytest.approx((2.0, 2.0))


@pytest.mark.parametrize("momentum", [0.0, 1.0, None])
@pytest.mark.parametrize("num_batches", [0, 2])
def test_there_is_nothing_to_correct(momentum: float | None, num_batches: int) -> None:
    layer = nn.BatchNorm1d(1, momentum=momentum)
    for _ in range(num_batches):
        layer(ONE)
    ((mean, var),) = bias_corrected_statistics(layer).values()
    assert (mean.item(), var.item()) == (layer.running_mean.item(), layer.running_var.item())


def test_noise_by_hand() -> None:
    noise = torch.tensor([[-1.0, 2.0], [-4.0, 1.0]])
    mean, var = _perturbed(torch.tensor([2.0, 0.0]), torch.tensor([9.0, 4.0]), 0.5, noise)
    assert mean.tolist() == pytest.approx([0.5, 2.0])
    assert var.sqrt().tolist() == pytest.approx([3.0, 3.0])  # |1 − 2| · 3 and 1.5 · 2


def test_networks_with_the_same_layers_get_the_same_noise_in_them() -> None:
    """Without the first BN, the second has the same ε: its noise has no part of the other's draws."""
    model, batches = network(), labelled()
    only_second = nn.Sequential(*(nn.Identity() if i == 1 else m for i, m in enumerate(model)))
    seen: list[Tensor] = []
    for one, layers in ((model, ["4"]), (only_second, None)):
        one[4].register_forward_pre_hook(lambda m, _: seen.append(m.running_mean.clone()))
        perturb(one, batches[:1], [0.5], draws=2, seed=3, layers=layers)
        one[4]._forward_pre_hooks.clear()
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0], seen[1])
    first = model[1].running_mean.clone()
    model[1].register_forward_pre_hook(lambda m, _: seen.append(m.running_mean.clone()))
    perturb(model, batches[:1], [0.5], draws=1, layers=["4"])
    assert torch.equal(seen[-1], first)  # no noise where none is asked for


def test_accuracy_falls_with_noise_the_same_for_each_seed_and_torch_keeps_its_generator() -> None:
    torch.manual_seed(5)
    model = nn.Sequential(nn.BatchNorm1d(4, affine=False))
    x = torch.eye(4).repeat(50, 1) + 0.3 * torch.randn(200, 4)
    batches = [(x[:150], x[:150].argmax(1)), (x[150:], x[150:].argmax(1))]
    before = torch.get_rng_state()
    result = perturb(model, batches, [0.0, 0.2, 1.0], draws=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert result.top1_percent[0] == (100, 100, 100)
    means = [sum(draws) / 3 for draws in result.top1_percent]
    assert means[0] > means[1] > means[2]
    assert len(set(result.top1_percent[2])) > 1  # draws differ
    assert perturb(model, batches, [0.2], draws=3).top1_percent[0] == result.top1_percent[1]
    assert perturb(model, batches, [0.2], draws=3, seed=1).top1_percent[0] != result.top1_percent[1]
    assert (model[0].running_mean == 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, b: remedies(m, b, momenta=[0.0]), r"a momentum must lie in \(0, 1\], got 0"),
        (lambda m, b: remedies(m, b, source_images=[0]), "source_images must be 1 or more, got 0"),
        (
            lambda m, b: remedies(m, [x for x, _ in b]),
            r"remedies: accuracy needs batches of \(images, labels\)",
        ),
        (lambda m, b: remedies(m, iter(b)), "remedies: the batches are read several times"),
        (lambda m, b: remedies(m, b, iter(b)), "remedies: the batches are read several times"),
        (lambda m, b: perturb(m, b, [-0.1]), "perturb: needs one or more deltas ≥ 0 and draws ≥ 1"),
        (lambda m, b: perturb(m, b, []), "perturb: needs one or more deltas"),
        (lambda m, b: perturb(m, b, draws=0), "draws ≥ 1"),
        (
            lambda m, b: perturb(m, b, layers=["4", "2"]),
            "perturb: '2' is not a BN layer that keeps estimates; valid: 1, 4",
        ),
        (
            lambda m, b: perturb(m, [(x, y + 7) for x, y in b]),
            "perturb: a label is 10, but the network has 4",
        ),
    ],
)
def test_values_out_of_range(call: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(network(), labelled())
