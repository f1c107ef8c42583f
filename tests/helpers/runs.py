"""Runs that are only read, never trained."""

from typing import Any

from suite.config import expand
from suite.experiment import Run


def make_run(**sections: Any) -> Run:
    content = {
        "model": {"arch": "small_resnet11"},
        "data": {"name": "fashion-mnist-7k", "image_size": 28, "train_images": 64, "val_images": 41},
        "batch": {"global_batch_size": 16},
        "recipe": {"epochs": 6},
        **sections,
    }
    return expand(content, "results").runs[0]
