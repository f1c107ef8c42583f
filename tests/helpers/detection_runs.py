"""Runs of detection whose data are loaded, and not trained on."""

from pathlib import Path
from typing import Any

from suite.config import expand
from suite.experiment import Run


def detection_run(
    folder: Path,
    num_classes: int = 10,
    *,
    batch: tuple[int, int] = (4, 2),
    seed: int = 5,
    sizes: tuple[int, int] = (80, 120),
    masks: bool = True,
    threads: int = 2,
    **data: Any,
) -> Run:
    """A run on a folder in COCO's format. `batch`: global and per GPU; `sizes`: min_size and max_size."""
    framework = "mask_rcnn" if masks else "faster_rcnn"
    content = {
        "task": {
            "kind": "detection",
            "framework": framework,
            "batch_norm": "trained",
            "min_size": sizes[0],
            "max_size": sizes[1],
        },
        "model": {"arch": "small_resnet11"},
        "data": {"name": "test", "path": str(folder), "num_classes": num_classes, **data},
        "batch": {"global_batch_size": batch[0], "batch_size_per_gpu": batch[1]},
        "recipe": {"iterations": 4, "schedule": "constant", "lr": 0.01},
        "measure": {"every_iterations": 2},
        "system": {"data_threads": threads, "collective_timeout_s": 60},
        "seeds": [seed],
    }
    return expand(content, "detection").runs[0]
