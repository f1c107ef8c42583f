"""Evaluation counts each image exactly once, whatever the number of ranks and the batch size."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from suite.config import expand
from suite.data import Batch, evaluation_batch_size, val_loader
from suite.data.dali_graph import build_pipeline
from suite.errors import UserError
from suite.experiment import Run
from suite.launch import launch_variables
from suite.models import build_model
from suite.signals import StopFlag
from suite.train.distributed import Ranks
from suite.train.evaluate import Evaluation, batch_sums, evaluate
from suite.train.loop import Trainer
from suite.train.metric_logger import MetricLogger
from suite.train.task import Evaluated
from tests.helpers.ranks import on_ranks
from tests.helpers.runs import tiny_run

NUM_IMAGES = 47  # a prime: neither 2 or 3 ranks nor any batch size divides it
BATCH_SIZES = (1, 18, 23, 70)


def the_run() -> Run:
    content = {
        "model": {"arch": "small_resnet11"},
        "data": {"name": "fashion-mnist-7k", "image_size": 28, "val_images": NUM_IMAGES},
    }
    return expand(content, "evaluation").runs[0]


def evaluate_a_share(rank: int, world_size: int) -> dict[int, Evaluation]:
    torch.manual_seed(0)
    run = the_run()
    model = build_model(run.model)
    ranks = Ranks(rank, rank, world_size, torch.device("cpu"))
    results = {}
    for images_per_batch in BATCH_SIZES if world_size == 1 else BATCH_SIZES[1:3]:
        loader = val_loader(
            run, images_per_batch=images_per_batch, rank=rank, world_size=world_size, device=ranks.device
        )
        results[images_per_batch] = evaluate(model, loader, ranks)
        loader.close()
    return results


def test_one_count_and_accuracy_on_one_two_and_three_ranks(tmp_path: Path) -> None:
    alone = evaluate_a_share(0, 1)
    reference = alone[BATCH_SIZES[-2]]
    assert reference.images_evaluated == NUM_IMAGES
    assert 0 < reference.top1_percent < reference.top5_percent < 100
    together = [result for world in (2, 3) for result in on_ranks(evaluate_a_share, world, tmp_path)]
    for results in [alone, *together]:
        for images_per_batch, result in results.items():
            exact = (result.images_evaluated, result.top1_percent, result.top5_percent)
            assert exact == (NUM_IMAGES, reference.top1_percent, reference.top5_percent), images_per_batch
            assert result.loss == pytest.approx(reference.loss, rel=1e-6)


@pytest.mark.parametrize(
    ("per_gpu", "num_images", "together"),
    [(2, 10_000, 64), (2, 1_000, 50), (2, 47, 2), (2, 10, 2), (64, 1_000, 64), (256, 10_000, 256)],
)
def test_small_batches_are_evaluated_together(per_gpu: int, num_images: int, together: int) -> None:
    """Up to 64 images, with twenty batches or those of training; never fewer than in training."""
    content = {"model": {"arch": "small_resnet11"}, "batch": {"global_batch_size": per_gpu}}
    (run,) = expand(content, "evaluation").runs
    assert evaluation_batch_size(run, num_images) == together


def test_sums_by_hand() -> None:
    # Six classes; the labels are ranked first, second and last.
    logits = torch.tensor([[9.0, 1, 2, 3, 4, 5], [5.0, 9, 1, 2, 3, 4], [0.0, 9, 8, 7, 6, 5]])
    labels = torch.tensor([0, 0, 0])
    loss, top1, top5, images = batch_sums(logits, labels).tolist()
    assert (top1, top5, images) == (1, 2, 3)
    assert loss == pytest.approx(F.cross_entropy(logits.double(), labels, reduction="sum").item())


def test_few_classes_and_modes() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2), nn.Dropout(0.5)).train()
    model[2].eval()
    batch = Batch(torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 0, 1]))
    result = evaluate(model, [batch], Ranks(0, 0, 1, torch.device("cpu")))
    assert result.top5_percent == 100
    assert (model.training, model[1].training, model[2].training) == (True, True, False)
    with pytest.raises(UserError, match="no readable image"):
        evaluate(model, [], Ranks(0, 0, 1, torch.device("cpu")))


def test_ranks_come_from_torchrun_or_from_a_slurm_step() -> None:
    torchrun = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    assert launch_variables({**torchrun, "HOME": "/"}) == torchrun
    assert launch_variables({"HOME": "/", "SLURM_STEP_NUM_TASKS": "1"}) == {}
    slurm = {
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_NODELIST": "n[1-2]",
        "SLURM_JOB_ID": "17",
        "MASTER_ADDR": "n1",
    }
    first = launch_variables(slurm)
    assert (first["RANK"], first["LOCAL_RANK"], first["WORLD_SIZE"], first["MASTER_ADDR"]) == (
        "3",
        "1",
        "4",
        "n1",
    )
    again = launch_variables({**slurm, "SLURM_RESTART_COUNT": "1"})
    assert again["MASTER_PORT"] != first["MASTER_PORT"]


def test_a_run_keeps_its_pipelines_and_measures_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One for the validation images and one for the training images; PreciseBN's, at the end, has its own."""
    built, results = [], []

    def count(*arguments: Any, **options: Any) -> Any:
        built.append(options["images_per_batch"])
        return build_pipeline(*arguments, **options)

    def keep(_: MetricLogger, result: Evaluated, **__: int) -> None:
        results.append(result)

    monkeypatch.setattr("suite.data.dali.build_pipeline", count)
    monkeypatch.setattr(MetricLogger, "evaluation", keep)
    run = tiny_run(measure={"eval_train": True})
    for _ in range(2):
        trainer = Trainer(run, Ranks(0, 0, 1, torch.device("cpu")), None, StopFlag())
        for epoch in (1, 1, 2):
            trainer.epoch_end.measure(epoch, 6 * epoch)
        trainer.epoch_end.close()
    assert len(built) == 2 * 3
    assert len(results) == 6
    assert all(result == results[0] for result in results)
