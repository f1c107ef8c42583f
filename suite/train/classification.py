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
from suite.data.loader import to_device
from suite.experiment import RecipeSpec, Run
from suite.models import build_model
from suite.train.distributed import Ranks
from suite.train.evaluate import batch_sums, evaluate
from suite.train.optim import autocast, mixup
from suite.train.task import Evaluated


class _Objective(nn.Module):
    """A classifier with its loss: cross-entropy in float32, and the sums of `batch_sums`."""

    def __init__(self, model: nn.Module, recipe: RecipeSpec) -> None:
        super().__init__()
        self.model, self._precision, self._smoothing = model, recipe.precision, recipe.label_smoothing

    def forward(
        self,
        images_NCHW: Tensor,
        labels_N: Tensor,
        others_N: Tensor | None = None,
        weights_2: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return loss and sums. Mixed images have `others_N` too, and the weights of both labels."""
        with autocast(images_NCHW.device, self._precision):
            logits_NK = self.model(images_NCHW)
        logits_NK = logits_NK.float()
        sums_4 = batch_sums(logits_NK.detach(), labels_N)
        loss = F.cross_entropy(logits_NK, labels_N, label_smoothing=self._smoothing)
        if others_N is None or weights_2 is None:
            return loss, sums_4
        other = F.cross_entropy(logits_NK, others_N, label_smoothing=self._smoothing)
        return weights_2[0] * loss + weights_2[1] * other, sums_4


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

    def objective(self, model: nn.Module) -> nn.Module:
        return _Objective(model, self.run.recipe)

    def inputs(self, batch: Batch, key: tuple[int, ...]) -> tuple[Tensor, ...]:
        recipe = self.run.recipe
        images_NCHW, labels_N = batch.images_NCHW, batch.labels_N
        if recipe.channels_last:
            images_NCHW = images_NCHW.contiguous(memory_format=torch.channels_last)
        if not recipe.mixup_alpha:
            return images_NCHW, labels_N
        images_NCHW, others_N, weight = mixup(images_NCHW, labels_N, recipe.mixup_alpha, key)
        weights_2 = to_device(torch.tensor([weight, 1 - weight]), labels_N.device)
        return images_NCHW, labels_N, others_N, weights_2

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
