"""Small detection runs and networks, which compute in fractions of a second."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from suite.config import expand
from suite.experiment import Run
from tests.helpers.coco_folder import box, write_coco

SMALL = {
    "kind": "detection",
    "batch_norm": "trained",
    "fpn_channels": 16,
    "head_channels": 16,
    "min_size": 32,
    "max_size": 64,
    "anchor_sizes": [8, 16, 32],
    "rois_per_image": 8,
    "proposals_per_image": 32,
    "detections_per_image": 32,
    "score_threshold": 0.0,
}


def small_run(folder: Path | str = "/nowhere", **sections: dict[str, Any]) -> Run:
    """A run of a small detector with two classes; `sections` replace fields."""
    content: dict[str, Any] = {
        "task": dict(SMALL),
        "model": {"arch": "small_resnet11"},
        "data": {"name": "boxes", "path": str(folder), "num_classes": 2, "loader": "torchvision"},
        "batch": {"global_batch_size": 4, "batch_size_per_gpu": 2},
        "recipe": {"iterations": 4, "schedule": "constant", "lr": 0.01},
        "measure": {"every_iterations": 2, "precise_bn_images": 4},
        "system": {"data_threads": 1, "torch_threads": 1, "checkpoint_every_steps": 1},
        "seeds": [3],
    }
    for section, fields in sections.items():
        content[section] = {**content[section], **fields}
    if content["task"].get("framework") == "retinanet" and "task" in sections:
        content["task"]["anchor_sizes"] = [8, 16, 32, 64]
    return expand(content, "small").runs[0]


def images_and_targets(num_boxes: int, masks: bool = False) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two images of different sizes, the first with so many boxes, the second with none."""
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, *size, generator=generator) for size in ((32, 40), (44, 32))]
    targets = []
    for image, count in zip(images, (num_boxes, 0), strict=True):
        target = {
            "boxes": torch.tensor([[4.0, 6.0, 24.0, 28.0]]).repeat(count, 1),
            "labels": torch.ones(count, dtype=torch.int64),
        }
        if masks:
            target["masks"] = torch.ones(count, *image.shape[1:], dtype=torch.uint8)
        targets.append(target)
    return images, targets


def without_gradient(model: nn.Module) -> list[str]:
    """Names of the trained parameters that a backward pass has left without a gradient."""
    return [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


def boxes_folder(folder: Path, num_images: int = 12) -> Path:
    """A folder in COCO's format: images of noise with one box each."""
    rng, ids = np.random.default_rng(0), range(1, num_images + 1)
    content: dict[str, Any] = {
        "images": [{"id": n, "file_name": f"{n:03d}.png", "height": 32, "width": 40} for n in ids],
        "annotations": [box(n, n, [*rng.integers(0, 10, 2).tolist(), 18, 16], (3, 7)[n % 2]) for n in ids],
        "categories": [{"id": 7, "name": "cup"}, {"id": 3, "name": "tin"}],
    }
    return write_coco(folder, content, content)
