"""Runs on made-up images whose steps must not wait for a GPU, and a batch without values for them."""

from typing import Any

import torch

from suite.config import expand
from suite.data import Batch
from suite.experiment import Run

STEPS: dict[str, dict[str, Any]] = {
    "bn": {},
    "xbn": {"norm": {"kind": "xbn"}},
    "gn": {"norm": {"kind": "gn"}},
    "ghost-bn": {"norm_batch_size": 2},
    "mixup": {"recipe": {"mixup_alpha": 0.2}},
    "accumulation": {"batch_size_per_gpu": 4},
    "ema-clipping": {"recipe": {"ema_decay": 0.9, "clip_grad_norm": 1.0}},
    "channels-last-lars": {"recipe": {"channels_last": True, "label_smoothing": 0.1, "optimizer": "lars"}},
}

# What neither a fake GPU nor the meta device can run.
STEPS_ON_GPU = STEPS | {
    "fused": {"kernels": "fused", "recipe": {"channels_last": True}},
    "bf16-gn": {"norm": {"kind": "gn"}, "recipe": {"precision": "bf16", "channels_last": True}},
    "fp16-clipping": {"recipe": {"precision": "fp16", "clip_grad_norm": 1.0}},
    "fp16-lars": {"recipe": {"precision": "fp16", "optimizer": "lars"}},
    "fused-ghost-bn": {"kernels": "fused", "norm_batch_size": 2, "recipe": {"channels_last": True}},
    "graph-mixup-ema": {"cuda_graphs": True, "recipe": {"mixup_alpha": 0.2, "ema_decay": 0.9}},
    "graph-lars": {"cuda_graphs": True, "recipe": {"optimizer": "lars"}},
    "graph-fp16-clipping": {"cuda_graphs": True, "recipe": {"precision": "fp16", "clip_grad_norm": 1.0}},
    "graph-fused-ghost-bn": {
        "cuda_graphs": True,
        "kernels": "fused",
        "norm_batch_size": 2,
        "recipe": {"channels_last": True},
    },
}


def run_of(case: str) -> Run:
    settings = dict(STEPS_ON_GPU[case])
    system = {"kernels": settings.pop("kernels", "native"), "cuda_graphs": settings.pop("cuda_graphs", False)}
    norm, recipe = settings.pop("norm", {"kind": "bn"}), settings.pop("recipe", {})
    content = {
        "model": {"arch": "small_resnet11", "norm": norm},
        "data": {"name": "synthetic", "num_classes": 10, "image_size": 28, "train_images": 800},
        "batch": {"global_batch_size": 8, **settings},
        "recipe": {"epochs": 2, "lr": 0.1, "schedule": "constant", **recipe},
        "system": system,
    }
    return expand(content, "waits").runs[0]


def batch_on(device: torch.device, run: Run) -> Batch:
    size = run.data.image_size
    images_NCHW = torch.empty(run.batch.per_gpu, 3, size, size, device=device)
    return Batch(images_NCHW, torch.empty(run.batch.per_gpu, dtype=torch.int64, device=device))
