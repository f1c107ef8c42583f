"""Writes many run folders with made-up numbers, as training leaves them, to time the reporter on."""

import itertools
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from suite.config import expand
from suite.experiment import BatchFreeSpec, Run, XbnSpec
from suite.metrics import PROBED
from suite.paths import RunPaths
from suite.record import SCHEMA_VERSION

EPOCHS = 50
PROBED_EPOCHS = (15, 30, 45, 50)
_BLOCKS = [f"layer{stage}.{block}" for stage, count in enumerate((3, 4, 6, 3), 1) for block in range(count)]
# The 53 norm sites of a ResNet-50.
_SITES = [
    "bn1",
    *(
        site
        for block in _BLOCKS
        for site in [f"{block}.bn1", f"{block}.bn2", f"{block}.bn3"]
        + ([f"{block}.downsample.1"] if block.endswith(".0") else [])
    ),
]
_SCALARS = {
    "train": ("loss", "top1_percent", "learning_rate", "epoch_time_s"),
    "val": ("loss", "top1_percent", "top5_percent", "images_evaluated"),
}
_FINAL = ("images_per_s", "step_time_p50_ms", "step_time_p95_ms", "data_wait_share", "peak_memory_gib")
_NORMS: list[dict[str, Any]] = [
    {"kind": "bn"},
    *({"kind": "xbn", "position": position} for position in ("p1", "p2", "p3")),
    {"kind": "xbn", "bfn": "ln"},
]


def write_runs(root: Path, count: int) -> None:
    """Write `count` completed runs of ResNet-50, an hour old: five norms × eight norm batches × seeds."""
    at_rest_s = time.time() - 3600
    for run in itertools.islice(_runs(count), count):
        paths = RunPaths(root / run.folder_name)
        paths.folder.mkdir(parents=True)
        names = [site for site in _SITES if _is_bn(run, site)]
        content = {"schema_version": SCHEMA_VERSION, "run_id": run.run_id, **run.model_dump(mode="json")}
        paths.run.write_text(json.dumps(content, indent=1))
        status = {
            "state": "completed",
            "attempts": 1,
            "started_at": at_rest_s - 7200,
            "updated_at": at_rest_s,
        }
        paths.status.write_text(json.dumps(status | {"world_size": 8, "step": 250_000}))
        start = {"started_at": at_rest_s - 7200, "device": "made up", "world_size": 8, "hosts": ["made-up"]}
        paths.provenance.write_text(json.dumps(start) + "\n")
        paths.layers.write_text(json.dumps([{"name": name, "num_channels": 64} for name in names]))
        paths.measurements.write_text("".join(_lines(run, len(names))))
        for path in (*paths.folder.iterdir(), paths.folder):
            os.utime(path, (at_rest_s, at_rest_s))


def _runs(count: int) -> Iterator[Run]:
    cells = len(_NORMS) * 8
    per_cell = -(-count // cells)
    for first in range(0, per_cell, 100):
        seeds = list(range(first, min(per_cell, first + 100)))
        content = {
            "name": "made-up",
            "model": {"arch": "resnet50", "norm": _NORMS},
            "data": {"name": "imagenet", "path": "/data/imagenet"},
            "batch": {"global_batch_size": 256, "norm_batch_size": [2**n for n in range(1, 9)]},
            "recipe": {"epochs": EPOCHS},
            "seeds": seeds,
        }
        yield from expand(content, name="made-up").runs


def _is_bn(run: Run, site: str) -> bool:
    norm = run.model.norm
    if isinstance(norm, BatchFreeSpec):
        return False
    if isinstance(norm, XbnSpec):
        return site != "bn1" and not site.endswith(f"bn{norm.position[1]}")
    return True


def _lines(run: Run, width: int) -> Iterator[str]:
    """Yield a training's measurements: scalars at every epoch, per-layer values at some, speed at the end."""
    made = random.Random(run.run_id)
    loss_of_accuracy = (20 if run.model.norm.label == "BN" else 8) / run.batch.norm
    for epoch in range(1, EPOCHS + 1):
        at = f'"epoch": {epoch}, "step": {epoch * 5004}, "split":'
        for split, metrics in _SCALARS.items():
            for metric in metrics:
                value = 76 - loss_of_accuracy - 40 / epoch + made.random()
                yield f'{{"metric": "{metric}", "value": {value!r}, {at} "{split}"}}\n'
        if epoch in PROBED_EPOCHS:
            for metric in PROBED:
                values = [made.random() * (layer + 1) / run.batch.norm for layer in range(width)]
                yield f'{{"metric": "{metric}", "value": {json.dumps(values)}, {at} "val"}}\n'
    for metric in _FINAL:
        yield f'{{"metric": "{metric}", "value": {made.random() * 1000!r}, {at} "train"}}\n'
