"""A stop request during the measurements after the last epoch takes effect between two batches."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch

from suite.data import val_loader
from suite.models import build_model
from suite.train import measure
from suite.train.distributed import joined
from suite.train.task import task_of
from tests.helpers.runs import make_run


@pytest.mark.parametrize(("is_asked", "expected"), [(True, 1), (False, 8)])
def test_precise_bn_stops_between_batches(
    monkeypatch: pytest.MonkeyPatch, is_asked: bool, expected: int
) -> None:
    """128 images of PreciseBN are eight batches of 16."""
    seen = []
    real = measure.precise_statistics

    def counting(model: torch.nn.Module, batches: Iterable[Any]) -> Any:
        kept = list(batches)
        seen.append(len(kept))
        return real(model, kept)

    monkeypatch.setattr(measure, "precise_statistics", counting)
    run = make_run(
        data={"name": "fashion-mnist-7k", "image_size": 28, "train_images": 64, "val_images": 16},
        batch={"global_batch_size": 16},
        recipe={"epochs": 1},
        measure={"precise_bn_images": 128},
    )
    with joined(run.system) as ranks:
        loader = val_loader(run, images_per_batch=16, **ranks.place)
        model = build_model(run.model)
        measure.accuracy_with_precise_bn(run, task_of(run), model, ranks, loader, lambda: is_asked)
        loader.close()
    assert seen == [expected]
