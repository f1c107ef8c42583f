"""Every cause, planted in one small trained network, is found by its name; a healthy network has none."""

import copy
import functools
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from suite.shift import Diagnosis, diagnose
from suite.shift.diagnosis.causes import CAUSES
from suite.shift.layers import batch_norm_layers
from tests.helpers.trained_network import Batches, batches, network, train

NAN, INFINITY = float("nan"), float("inf")


@functools.cache
def _healthy() -> nn.Module:
    return train(network(), batches("train"))


def healthy() -> nn.Module:
    """A copy of one network that is trained once."""
    return copy.deepcopy(_healthy())


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return list(batch_norm_layers(model).values())  # type: ignore[arg-type]


@torch.no_grad()
def follow(model: nn.Module, data: Batches, momentum: float) -> nn.Module:
    """Update the estimates over these batches."""
    for layer in norms(model):
        layer.momentum = momentum
    model.train()
    for x, _ in data:
        model(x)
    return model.eval()


# ------------------------------------------------------------ the plants


def never_updated() -> nn.Module:
    model = healthy()
    for layer in norms(model):
        layer.reset_running_stats()
    return model


def warming_up() -> nn.Module:
    return follow(never_updated(), batches("train")[:8], 0.1)


def slow_momentum() -> nn.Module:
    """After 500 steps that change little, 50 that change much."""
    model = train(network(0.01), batches("train", 16), epochs=5, lr=0.02)
    return train(model, batches("train"), epochs=1, lr=0.4)


def stale() -> nn.Module:
    """Weights that were rescaled after the training, to which BN with batch statistics is indifferent."""
    model = healthy()
    for convolution in (model[0], model[3], model[6]):
        convolution.weight.data *= 1.5
    return model


def short_average() -> nn.Module:
    return follow(healthy(), batches("train", 4, 400), 0.9)


ODD = batches("train", 64, 1537)  # of which the last one has a single image


def last_batch() -> nn.Module:
    return follow(healthy(), ODD, 0.5)


def moved(layer: nn.BatchNorm2d) -> None:
    layer.running_mean += 2 * layer.running_var.sqrt()


def frozen_at_first() -> nn.Module:
    model = healthy()
    model[4].reset_running_stats()
    return model


def frozen_by_momentum() -> nn.Module:
    model = healthy()
    model[4].momentum = 0.0
    moved(model[4])
    return model


def frozen_by_mode() -> nn.Module:
    model = healthy().train()
    model[4].eval()
    moved(model[4])
    return model


def frozen_by_constants() -> nn.Module:
    """Two of three layers: each one's constants are in the way of the next one's statistics."""
    model = healthy()
    for index in (1, 4):
        moved(model[index])
        layer = FrozenBatchNorm2d(model[index].num_features)
        layer.load_state_dict(model[index].state_dict())
        model[index] = layer
    return model


def inherited() -> nn.Module:
    model = healthy()
    moved(model[1])
    return model


PAIRS = batches("train", 2, 600)


def few_samples() -> nn.Module:
    """Trained on batches of two that are never mixed: each image's prediction depends on its neighbour."""
    return train(network(), PAIRS, epochs=4, lr=0.02, is_mixed=False)


def broken(value: float, buffer: str = "running_var") -> nn.Module:
    model = healthy()
    getattr(model[4], buffer)[3] = value
    return model


DIM = [(0.5 * x + 0.8, y) for x, y in batches("val")]
CASES = [
    ("never_updated", never_updated, None, None),
    ("warming_up", warming_up, None, None),
    ("slow_momentum", slow_momentum, None, None),
    ("stale", stale, None, None),
    ("short_average", short_average, batches("train", 4), None),
    ("last_batch", last_batch, ODD, None),
    ("frozen", frozen_at_first, None, None),
    ("frozen", frozen_by_momentum, None, None),
    ("frozen", frozen_by_constants, None, None),
    ("frozen", frozen_by_mode, None, None),
    ("inherited", inherited, None, None),
    ("gap", healthy, None, DIM),
    ("few_samples", few_samples, PAIRS, None),
    ("broken", functools.partial(broken, NAN, "running_mean"), None, None),
    ("broken", functools.partial(broken, -INFINITY, "running_mean"), None, None),
    ("broken", functools.partial(broken, NAN), None, None),
    ("broken", functools.partial(broken, -1.0), None, None),
    ("broken", functools.partial(broken, 0.0), None, None),
]


# ------------------------------------------------------------ the tests


def diagnosis_of(
    model: nn.Module, training: Batches | None = None, evaluation: Batches | None = None
) -> Diagnosis:
    return diagnose(model, training or batches("train"), evaluation or batches("val"))


def top1(model: nn.Module, data: Batches) -> float:
    """In inference mode, counted here."""
    model.eval()
    with torch.no_grad():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in data)
    return 100 * right / sum(len(y) for _, y in data)


def test_every_cause_is_planted() -> None:
    assert {cause for cause, *_ in CASES} == set(CAUSES)


@pytest.mark.parametrize(("cause", "plant", "training", "evaluation"), CASES)
def test_a_planted_cause_comes_first(
    cause: str, plant: Callable[[], nn.Module], training: Batches | None, evaluation: Batches | None
) -> None:
    model = plant()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    found = diagnosis_of(model, training, evaluation)
    first, *others = found.findings
    assert (first.cause, first.is_harmful) == (cause, True), found.verdict
    assert first.title in found.verdict
    assert not any(finding.is_harmful for finding in others), found.verdict
    assert not found.is_healthy
    if first.gives_back is not None:
        assert first.gives_back.low > 0
    if cause not in ("few_samples", "slow_momentum"):  # of the same weights
        # What is given back is all that was lost.
        evaluated = top1(model, evaluation or batches("val")) + first.gives_back.points
        assert evaluated == pytest.approx(top1(healthy(), batches("val")), abs=1.5)
    if cause != "gap":
        assert first.lost is not None
        assert first.lost.low > 0
        assert first.lost.points == pytest.approx(found.lost.points - found.unexplained.points, abs=1.5) or (
            cause in ("few_samples", "frozen")
        )
    assert [module.training for module in plant().modules()] == modes or cause == "frozen"
    for name, value in plant().state_dict().items() if cause == "inherited" else state.items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("seed", range(3))
def test_a_healthy_network_gets_a_clean_bill(seed: int) -> None:
    torch.manual_seed(seed)
    model = healthy() if seed == 0 else train(network(seed=seed), batches("train"))
    found = diagnosis_of(model)
    assert found.findings == ()
    assert found.is_healthy
    assert found.verdict.startswith("A clean bill. On the training images, the estimates are not shown to")
    assert "that is generalisation, and no fault of BN" in found.verdict
    assert found.generalisation.low > 0
