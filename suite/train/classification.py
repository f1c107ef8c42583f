"""The task of classification: cross-entropy in training, top-1 and top-5 in evaluation."""

from collections.abc import Iterable
from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite.data import (
    Batch,
    Loader,
    check_folders,
    evaluation_batch_size,
    split_size,
    steps_per_epoch,
    train_loader,
    val_loader,
)
from suite.experiment import Run
from suite.models import build_model
from suite.train.distributed import Ranks
from suite.train.evaluate import batch_sums, evaluate
from suite.train.optim import autocast, mixup
from suite.train.task import Evaluated


class Classification:
    """See `suite.train.task.Task`. The sums are those of `batch_sums`."""

    num_sums = 4

    def __init__(self, run: Run) -> None:
        self.run = run

    def steps_per_pass(self) -> int:
        return steps_per_epoch(self.run)

    def check_data(self) -> None:
        check_folders(self.run)

    def build(self) -> nn.Module:
        return build_model(self.run.model)

    def start(self, model: nn.Module, ranks: Ranks) -> None:
        """Does nothing: a classifier begins with its first weights."""

    def train_loader(self, start_step: int, ranks: Ranks) -> Loader:
        return train_loader(self.run, start_step=start_step, **ranks.place)

    def val_loader(self, ranks: Ranks) -> Loader:
        data = self.run.data
        together = evaluation_batch_size(self.run, data.val_images or split_size(data, "val"))
        return val_loader(self.run, images_per_batch=together, **ranks.place)

    def loss(self, forward: nn.Module, batch: Batch, key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        recipe = self.run.recipe
        images_NCHW, labels_N = batch.images_NCHW, batch.labels_N
        if recipe.channels_last:
            images_NCHW = images_NCHW.contiguous(memory_format=torch.channels_last)
        others_N, weight = labels_N, 1.0
        if recipe.mixup_alpha:
            images_NCHW, others_N, weight = mixup(images_NCHW, labels_N, recipe.mixup_alpha, key)
        with autocast(images_NCHW.device, recipe.precision):
            logits_NK = forward(images_NCHW)
        logits_NK = logits_NK.float()
        sums_4 = batch_sums(logits_NK.detach(), labels_N)
        loss = F.cross_entropy(logits_NK, labels_N, label_smoothing=recipe.label_smoothing)
        if weight == 1.0:
            return loss, sums_4
        other = F.cross_entropy(logits_NK, others_N, label_smoothing=recipe.label_smoothing)
        return weight * loss + (1 - weight) * other, sums_4

    def training_metrics(self, sums_S: Tensor) -> dict[str, float]:
        loss, top1, _, images = sums_S.tolist()
        return {"loss": loss / images, "top1_percent": 100 * top1 / images}

    def evaluate(self, model: nn.Module, batches: Iterable[Batch], ranks: Ranks) -> Evaluated:
        found = evaluate(model, batches, ranks, self.run.recipe.precision)
        return Evaluated(found.top1_percent, asdict(found), found.loss)

    def example(self, device: torch.device) -> Tensor:
        size = self.run.data.image_size
        return torch.zeros(1, 3, size, size, device=device)

    def work(self, model: nn.Module, device: torch.device) -> Tensor:
        logits_NK: Tensor = model.eval()(self.example(device))
        return logits_NK.sum()
