"""Runs that are only read, never trained."""

from typing import Any

from suite.config import expand
from suite.experiment import Run

# The YAML of three seeds, small enough to be planned and never trained.
CONFIG = """
model: {arch: small_resnet11}
data: {name: fashion-mnist-7k, image_size: 28, train_images: 64, val_images: 41}
batch: {global_batch_size: 16}
recipe: {epochs: 6}
seeds: [0, 1, 2]
"""


def make_run(**sections: Any) -> Run:
    content = {
        "model": {"arch": "small_resnet11"},
        "data": {"name": "fashion-mnist-7k", "image_size": 28, "train_images": 64, "val_images": 41},
        "batch": {"global_batch_size": 16},
        "recipe": {"epochs": 6},
        **sections,
    }
    return expand(content, "results").runs[0]


def tiny_run(**sections: dict[str, Any]) -> Run:
    """A run of 12 steps, 6 an epoch, on 96 images; a checkpoint every 4 steps and at each epoch's end."""
    content: dict[str, Any] = {
        "model": {"arch": "small_resnet11", "norm": {"kind": "xbn"}},
        "data": {"name": "fashion-mnist-7k", "image_size": 16, "train_images": 96, "val_images": 25},
        "batch": {"global_batch_size": 16, "batch_size_per_gpu": 8, "norm_batch_size": 4},
        "recipe": {"epochs": 2, "lr": 0.05, "schedule": "cosine", "mixup_alpha": 0.2},
        "measure": {"probe_every_epochs": 1, "precise_bn_images": 32, "tid_every_steps": 5},
        "system": {
            "checkpoint_every_steps": 4,
            "torch_threads": 1,
            "data_threads": 1,
            "collective_timeout_s": 60,
        },
    }
    for name, section in sections.items():
        content[name] = {**content[name], **section}
    return expand(content, "tiny").runs[0]
