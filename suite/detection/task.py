"""The task of detection: torchvision's losses in training, COCO's average precision in evaluation."""

import json
import math
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from suite.detection.batch import DetectionBatch, DetectionLoader
from suite.detection.coco import CocoIndex
from suite.detection.evaluate import CocoEvaluator, average_precision
from suite.detection.frozen import calibrate
from suite.detection.gallery import Gallery
from suite.detection.loaders import (
    check_detection_data,
    detection_steps_per_epoch,
    detection_train_loader,
    detection_val_index,
    detection_val_loader,
)
from suite.detection.network import build_detector
from suite.errors import UserError
from suite.experiment import DetectionSpec, Run
from suite.paths import DETECTIONS, GALLERY
from suite.shift.layers import batch_norm_layers, preserved
from suite.train.distributed import Ranks
from suite.train.task import Evaluated

# The metric's beginning for each type of IoU, and the values of an AveragePrecision by the metric's end.
PREFIXES = {"bbox": "ap", "segm": "mask_ap"}
PARTS = ("", "50", "75", "_small", "_medium", "_large")
CALIBRATION_IMAGES = 256  # for norms that are frozen without a checkpoint
BOX = (0.25, 0.25, 0.75, 0.75)  # of the image, for one object of `work`


class _Objective(nn.Module):
    """A detector with the sum of its losses. The sums are those of the loss, and the number of images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
        """Return loss and sums."""
        losses: dict[str, Tensor] = self.model(images, targets)
        loss = torch.stack(list(losses.values())).sum()
        num_images = torch.full_like(loss, len(images))
        return loss, torch.stack([loss.detach() * num_images, num_images]).double()


class Detection:
    """See `suite.train.task.Task`. The sums are those of the loss, and the number of images."""

    num_sums = 2

    def __init__(self, run: Run) -> None:
        assert isinstance(run.task, DetectionSpec)
        self.run, self.spec = run, run.task

    def steps_per_pass(self) -> int:
        return detection_steps_per_epoch(self.run)

    def check_data(self) -> None:
        check_detection_data(self.run)

    def build(self) -> nn.Module:
        return build_detector(self.run)

    def start(self, model: nn.Module, ranks: Ranks) -> None:
        """Estimate the statistics of norms that are constants of no checkpoint, over training images."""
        if self.spec.backbone_from is not None:
            return
        passes = -(-CALIBRATION_IMAGES // (self.run.batch.per_gpu * ranks.world_size))
        loader = self.train_loader(0, ranks)
        try:
            calibrate(model, islice(loader, passes))
        finally:
            loader.close()

    def train_loader(self, start_step: int, ranks: Ranks) -> DetectionLoader:
        return detection_train_loader(self.run, start_step=start_step, **ranks.place)

    def val_loader(self, ranks: Ranks) -> DetectionLoader:
        return detection_val_loader(self.run, images_per_batch=self.run.batch.per_gpu, **ranks.place)

    def objective(self, model: nn.Module) -> nn.Module:
        return _Objective(model)

    def inputs(self, batch: DetectionBatch, key: tuple[int, ...]) -> tuple[Any, ...]:
        return batch.images, batch.targets

    def training_metrics(self, sums_S: Tensor) -> dict[str, float]:
        loss, images = sums_S.tolist()
        return {"loss": loss / images}

    def evaluate(self, model: nn.Module, batches: Iterable[DetectionBatch], ranks: Ranks) -> Evaluated:
        return self.evaluate_on(detection_val_index(self.run), model, batches, ranks)

    @torch.no_grad()
    def evaluate_on(
        self, index: CocoIndex, model: nn.Module, batches: Iterable[DetectionBatch], ranks: Ranks
    ) -> Evaluated:
        """As `evaluate`, where the batches are of the images of `index`."""
        evaluator = CocoEvaluator(index, self.spec.framework_entry.iou_types)
        num_images, gallery = 0, Gallery(index.category_names)
        with preserved(model):
            model.eval()
            for batch in batches:
                outputs = model(batch.images)
                evaluator.add(batch.targets, outputs)
                gallery.add(batch, outputs)
                num_images += len(batch.images)
        found, total = self._of_all_ranks(evaluator.detections(), num_images, ranks)
        if not total:
            raise UserError("evaluation: the validation set has no readable image")
        metrics = self._metrics(index, found, ranks)
        accuracy = metrics[self.spec.entry.metric]
        metrics["images_evaluated"] = float(total)
        files = {DETECTIONS: json.dumps(found) + "\n", GALLERY: gallery.text()}
        return Evaluated(accuracy, metrics, files=files)

    def example(self, device: torch.device) -> list[Tensor]:
        return [torch.zeros(3, self.spec.min_size, self.spec.min_size, device=device)]

    def work(self, model: nn.Module, device: torch.device) -> Tensor:
        images = self.example(device)
        box = torch.tensor([[side * self.spec.min_size for side in BOX]], device=device)
        target = {"boxes": box, "labels": torch.ones(1, dtype=torch.int64, device=device)}
        if self.spec.masks:
            target["masks"] = torch.ones(1, *images[0].shape[1:], dtype=torch.uint8, device=device)
        model.train()
        for layer in batch_norm_layers(model).values():
            layer.eval()  # the first rank does this alone, and statistics may span the ranks
        losses: dict[str, Tensor] = model(images, [target])
        return torch.stack(list(losses.values())).sum()

    def _of_all_ranks(
        self, own: list[dict[str, Any]], num_images: int, ranks: Ranks
    ) -> tuple[list[dict[str, Any]], int]:
        """Return all ranks' detections in an order that does not depend on the ranks, and all images."""
        everyone: list[Any] = [(own, num_images)] * ranks.world_size
        if ranks.world_size > 1:
            dist.all_gather_object(everyone, (own, num_images))
        found = [one for detections, _ in everyone for one in detections]
        found.sort(key=lambda one: (one["image_id"], -one["score"]))
        return found, sum(count for _, count in everyone)

    def _metrics(self, index: CocoIndex, found: Sequence[dict[str, Any]], ranks: Ranks) -> dict[str, float]:
        """Return all averages, which the first rank computes and sends to the others."""
        box: list[Any] = [None]
        if ranks.is_first:
            values = {}
            for iou_type in self.spec.framework_entry.iou_types:
                precision = average_precision(index, list(found), iou_type)
                for part in PARTS:
                    values[f"{PREFIXES[iou_type]}{part}_percent"] = getattr(precision, f"ap{part}")
            box = [values]
        if ranks.world_size > 1:
            dist.broadcast_object_list(box, src=0)
        metrics: dict[str, float] = box[0]
        metrics[self.spec.entry.metric] = _or_zero(metrics[self.spec.entry.metric])
        return metrics


def _or_zero(percent: float) -> float:
    """Return 0 for the NaN of a validation set without any box that counts."""
    return 0.0 if math.isnan(percent) else percent
