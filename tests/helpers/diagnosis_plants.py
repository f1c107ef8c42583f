"""Faults of a small trained network, one for each cause that a diagnosis can name."""

import copy
import functools

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from suite.shift import Diagnosis, diagnose
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


def never_updated() -> nn.Module:
    model = healthy()
    for layer in norms(model):
        layer.reset_running_stats()
    return model


def warming_up() -> nn.Module:
    return follow(never_updated(), batches("train")[:8], 0.1)


def slow_momentum() -> nn.Module:
    return copy.deepcopy(_slow_momentum())


@functools.cache
def _slow_momentum() -> nn.Module:
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


def with_constants(model: nn.Module, *indices: int) -> nn.Module:
    """Let layers normalise with what their estimates are."""
    for index in indices:
        layer = FrozenBatchNorm2d(model[index].num_features)
        layer.load_state_dict(model[index].state_dict())
        model[index] = layer
    return model


def frozen_by_constants() -> nn.Module:
    """Two of three layers: each one's constants are in the way of the next one's statistics."""
    model = healthy()
    for index in (1, 4):
        moved(model[index])
    return with_constants(model, 1, 4)


def frozen_and_warming_up() -> nn.Module:
    """Constants that are far off since, and behind them layers whose estimates are half warmed up."""
    model = warming_up()
    model[1] = inherited()[1]
    return with_constants(model, 1)


def broken_constants(value: float, buffer: str) -> nn.Module:
    """In the last layer, behind which no other one's inputs are lost."""
    model = healthy()
    getattr(model[7], buffer)[3] = value
    return with_constants(model, 7)


def inherited() -> nn.Module:
    model = healthy()
    moved(model[1])
    return model


PAIRS = batches("train", 2, 400)


def few_samples() -> nn.Module:
    """Trained on batches of two that are never mixed: each image's prediction depends on its neighbour."""
    return train(network(), PAIRS, epochs=5, lr=0.02, is_mixed=False)


def broken(value: float, buffer: str = "running_var") -> nn.Module:
    model = healthy()
    getattr(model[4], buffer)[3] = value
    return model


PLAIN = batches("val")
DIM = [(0.5 * x + 0.8, y) for x, y in PLAIN]


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
