"""Runs of detection, small."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from suite.experiment import BatchSpec, DataSpec, Run


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
    """What the loaders read of a run. `batch`: global and per GPU; `sizes`: min_size and max_size."""
    parts = SimpleNamespace(
        task=SimpleNamespace(min_size=sizes[0], max_size=sizes[1], masks=masks, framework="mask_rcnn"),
        data=DataSpec(name="test", path=str(folder), num_classes=num_classes, **data),
        batch=BatchSpec(global_batch_size=batch[0], batch_size_per_gpu=batch[1]),
        system=SimpleNamespace(data_threads=threads, collective_timeout_s=60.0),
        seed=seed,
    )
    return cast(Run, parts)
