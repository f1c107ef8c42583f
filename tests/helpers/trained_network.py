"""A small network that is trained in seconds, on the Fashion-MNIST images of this repository."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite.data.idx import read_split
from suite.data.sources import SUBSET_FOLDER

Batches = list[tuple[Tensor, Tensor]]
NUM_TRAINING, NUM_EVALUATION = 1600, 1000


@functools.cache
def images(split: str, count: int) -> tuple[Tensor, Tensor]:
    """The first images of a split in a fixed, mixed order, at 14 × 14 pixels, and their labels."""
    pixels_NHW, labels_N = (torch.from_numpy(values.copy()) for values in read_split(SUBSET_FOLDER, split))
    order = torch.randperm(len(labels_N), generator=torch.Generator().manual_seed(0))[:count]
    images_N1HW = F.avg_pool2d(pixels_NHW[order, None].float() / 255, 2)
    return (images_N1HW - 0.29) / 0.32, labels_N[order].long()


def batches(split: str, size: int = 32, count: int | None = None) -> Batches:
    """Batches of so many images, the last one of what is left."""
    count = count or (NUM_TRAINING if split == "train" else NUM_EVALUATION)
    x, y = images(split, count)
    return list(zip(x.split(size), y.split(size), strict=True))


def network(
    momentum: float | None = 0.1, norm: Callable[..., nn.Module] = nn.BatchNorm2d, seed: int = 0
) -> nn.Sequential:
    """Three convolutions with BN, with the same initial weights for the same seed."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((1, 8, 1), (8, 16, 2), (16, 32, 2)):
        convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        layers += [convolution, norm(outputs, momentum=momentum), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))


def train(
    model: nn.Module, data: Batches, epochs: int = 8, lr: float = 0.1, is_mixed: bool = True
) -> nn.Module:
    """Train with SGD and a cosine schedule on batches of these sizes, mixed anew in each epoch."""
    x_N, y_N = (torch.cat(parts) for parts in zip(*data, strict=True))
    sizes, generator = [len(y) for _, y in data], torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(data))
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(y_N), generator=generator) if is_mixed else torch.arange(len(y_N))
        for x, y in zip(x_N[order].split(sizes), y_N[order].split(sizes), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
    return model.eval()
