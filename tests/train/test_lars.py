"""LARS by hand, against timm's, and with the precision's scaling of the loss."""

import math
from typing import Any

import pytest
import torch
from timm.optim.lars import Lars as LarsOfTimm
from torch import nn

from suite.experiment import RecipeSpec
from suite.train.optim import Optimizer, build_optimizer

CPU = torch.device("cpu")


def recipe(**fields: Any) -> RecipeSpec:
    return RecipeSpec(optimizer="lars", **fields)


def test_a_step_by_hand() -> None:
    """‖w‖ = 5 and ‖g‖ = 13: trust = 0.1 · 5 / (13 + 0.2 · 5) = 1/28. The bias is SGD's, without decay."""
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0]]))
        model.bias.fill_(7.0)
    made = build_optimizer(
        model, recipe(lr=0.5, weight_decay=0.2, norm_weight_decay=0.0, trust_coefficient=0.1)
    )
    for factor in (1.0, 2.0):  # the second step's momentum: 0.9 times the first one's update
        model.weight.grad = torch.tensor([[5.0, 12.0]]) * factor
        model.bias.grad = torch.tensor([2.0])
        if factor == 1:
            made.step()
            after = [3 - 0.5 / 28 * (5 + 0.2 * 3), 4 - 0.5 / 28 * (12 + 0.2 * 4)]
            assert model.weight.detach()[0].tolist() == pytest.approx(after)
            assert model.bias.item() == pytest.approx(7 - 0.5 * 2)
    norm = math.hypot(*after)
    trust = 0.1 * norm / (26 + 0.2 * norm)
    made.step()
    expected = [
        w - 0.5 * (0.9 / 28 * (g + 0.2 * w0) + trust * (2 * g + 0.2 * w))
        for w, w0, g in zip(after, (3, 4), (5, 12), strict=True)
    ]
    assert model.weight.detach()[0].tolist() == pytest.approx(expected)
    assert model.bias.item() == pytest.approx(6 - 0.5 * (0.9 * 2 + 2))


@pytest.mark.parametrize("is_zero", ["weight", "gradient"])
def test_without_a_norm_to_compare_with_a_weight_is_sgds(is_zero: str) -> None:
    model = nn.Linear(2, 1, bias=False)
    weight, gradient = ([0.0, 0.0], [3.0, 4.0]) if is_zero == "weight" else ([3.0, 4.0], [0.0, 0.0])
    model.weight.data, model.weight.grad = torch.tensor([weight]), torch.tensor([gradient])
    build_optimizer(model, recipe(lr=0.5, weight_decay=0.1)).step()
    expected = [w - 0.5 * (g + 0.1 * w) for w, g in zip(weight, gradient, strict=True)]
    assert model.weight.detach()[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_steps_as_timms(nesterov: bool, fused: bool) -> None:
    """Of a network with convolutions, BN and biases, whose learning rate changes; timm's eps is 0 here."""
    networks = []
    for is_own in (True, False):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 16, 5))
        settings = recipe(lr=0.3, weight_decay=1e-2, norm_weight_decay=0.0, nesterov=nesterov)
        made: torch.optim.Optimizer = build_optimizer(network, settings, fused=fused)
        if not is_own:
            groups = [{"params": made.param_groups[0]["params"], "weight_decay": 1e-2}]
            groups += [{"params": made.param_groups[1]["params"], "weight_decay": 0.0}]
            made = LarsOfTimm(groups, lr=0.3, momentum=0.9, nesterov=nesterov, trust_coeff=0.001, eps=0.0)
        for step in range(4):
            for group in made.param_groups:
                group["lr"] = 0.3 / (1 + step)
            x_NCHW = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(step))
            network(x_NCHW).square().mean().backward()
            made.step()
            made.zero_grad()
        networks.append(network.state_dict())
    for name, value in networks[0].items():
        torch.testing.assert_close(value, networks[1][name], rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("fused", [False, True])
def test_the_scale_of_the_loss_changes_no_trust(fused: bool) -> None:
    """Gradients of float16 are 2^16 times too large until they are unscaled."""
    updates = []
    for precision in ("fp16", "fp32"):
        weight, model = nn.Parameter(torch.tensor([[3.0, 4.0]])), nn.Module()
        model.register_parameter("weight", weight)
        settings = recipe(lr=0.5, weight_decay=0.2, trust_coefficient=0.1, precision=precision)
        optimizer = Optimizer(model, settings, CPU, is_recorded=fused)
        optimizer.backward((weight * torch.tensor([[5.0, 12.0]])).sum())
        optimizer.step()
        updates.append(weight.detach()[0].tolist())
    assert updates[0] == pytest.approx(updates[1])
    assert updates[1] == pytest.approx([3 - 0.5 / 28 * (5 + 0.2 * 3), 4 - 0.5 / 28 * (12 + 0.2 * 4)])


def test_a_checkpoint_goes_on() -> None:
    weight, model = nn.Parameter(torch.tensor([[3.0, 4.0]])), nn.Module()
    model.register_parameter("weight", weight)
    first = Optimizer(model, recipe(lr=0.5), CPU)
    first.backward(weight.sum())
    first.step()
    resumed = Optimizer(model, recipe(lr=0.1), CPU)
    resumed.load(first.state())
    group = resumed.sgd.param_groups[0]
    assert (group["trust_coefficient"], group["layer_weight_decay"], group["weight_decay"]) == (
        0.001,
        1e-4,
        0,
    )
    assert resumed.lr == 0.5
    assert (
        resumed.sgd.state[weight]["momentum_buffer"].tolist()
        == first.sgd.state[weight]["momentum_buffer"].tolist()
    )
