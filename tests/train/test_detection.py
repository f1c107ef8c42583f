"""Detection runs: their records, stopping and resuming, and ranks of which one has no box."""

import contextlib
import io
import json
import math
import signal
from pathlib import Path

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import Record
from tests.helpers.bit_equal import assert_bit_equal, final_state, measured
from tests.helpers.ranks import on_ranks
from tests.helpers.small_detectors import boxes_folder, images_and_targets, small_run, without_gradient
from tests.helpers.training_processes import train


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return boxes_folder(tmp_path_factory.mktemp("boxes"))


@pytest.fixture(scope="module")
def run(boxes: Path) -> Run:
    return small_run(boxes)


@pytest.fixture(scope="module")
def undisturbed(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert train(run, folder) == [0]
    return folder


def test_the_record_has_precision_shift_and_discrepancy(undisturbed: Path) -> None:
    """Four iterations, two of which count as an epoch of the record."""
    record = Record.read(undisturbed)
    assert record.state == "completed"
    lines = measured(undisturbed)
    assert {(line["epoch"], line["step"]) for line in lines} == {(1, 2), (2, 4)}
    of_val = {line["metric"] for line in lines if line["split"] == "val"}
    sizes = ("", "50", "75", "_small", "_medium", "_large")
    assert {f"ap{size}_percent" for size in sizes} <= of_val
    assert {"ap_precise_percent", "esm_mu_scaled", "esm_sigma_scaled"} <= of_val
    assert record.last("images_evaluated") == 12
    layers = record.last_per_layer("esm_sigma_scaled", "val")
    assert len(layers) == 13
    assert list(record.last_per_layer("tid_mu", "train")) == list(layers)
    assert record.status["ap_percent"] == record.last("ap_percent")
    assert "top1_percent" not in record.status
    assert record.last("flops_per_image") > 1e6


def test_the_detections_are_kept_as_coco_writes_results(undisturbed: Path) -> None:
    found = json.loads(RunPaths(undisturbed).detections.read_text())
    assert {one["image_id"] for one in found} <= set(range(1, 13))
    assert {one["category_id"] for one in found} <= {3, 7}
    assert all({"image_id", "category_id", "bbox", "score"} == one.keys() for one in found)


def test_the_average_precision_of_the_record_is_pycocotools_of_its_files(
    boxes: Path, undisturbed: Path
) -> None:
    """It reads the files that a user would give it: the data set's JSON, and the run's results."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(boxes / "annotations/instances_val.json"))
        results = truth.loadRes(str(RunPaths(undisturbed).detections))
        evaluation = COCOeval(truth, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    record = Record.read(undisturbed)
    sizes = ("", "50", "75", "_small", "_medium", "_large")
    found = [record.last(f"ap{size}_percent") for size in sizes]
    expected = [math.nan if figure == -1 else 100 * figure for figure in evaluation.stats[:6]]
    assert found == pytest.approx(expected, abs=1e-10, nan_ok=True)
    assert record.last("ap50_percent") > 0


def test_a_run_that_dali_feeds_ends_bit_equal_when_it_is_stopped(boxes: Path, tmp_path: Path) -> None:
    run = small_run(boxes, data={"loader": "dali"})
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train(run, whole) == [0]
    assert Record.read(whole).last("images_evaluated") == 12
    assert train(run, stopped, stop_by=signal.SIGTERM, stop_at=1) == [75]
    assert train(run, stopped) == [0]
    assert_bit_equal(final_state(stopped), final_state(whole))
    assert measured(stopped) == measured(whole)


def test_a_killed_detection_run_ends_bit_equal(run: Run, undisturbed: Path, tmp_path: Path) -> None:
    assert train(run, tmp_path, stop_by=signal.SIGKILL, stop_at=3) == [-9]
    assert train(run, tmp_path) == [0]
    assert_bit_equal(final_state(tmp_path), final_state(undisturbed))
    assert measured(tmp_path) == measured(undisturbed)


def test_frozen_norms_keep_the_statistics_of_the_first_images(run: Run, tmp_path: Path) -> None:
    frozen = small_run(run.data.path or "", task={"batch_norm": "frozen"})
    assert train(frozen, tmp_path) == [0]
    paths = RunPaths(tmp_path)
    first, last = (
        torch.load(paths.checkpoint(s), weights_only=True)["model"] for s in paths.checkpoint_steps()
    )
    statistics = [name for name in last if name.endswith(("running_mean", "running_var"))]
    assert len(statistics) == 2 * 13
    for name in statistics:
        assert torch.equal(first[name], last[name])
        assert not torch.equal(last[name], torch.full_like(last[name], float(name.endswith("var"))))
    record = Record.read(tmp_path)
    assert len(record.last_per_layer("esm_mu_scaled", "val")) == 13
    assert record.last_per_layer("tid_mu") == {}


def test_two_ranks_give_the_record_of_one(run: Run, undisturbed: Path, tmp_path: Path) -> None:
    """Each image is counted once, and both ranks train on all images of a step, which BN sees together."""
    together = small_run(
        run.data.path or "",
        batch={"global_batch_size": 4, "batch_size_per_gpu": 2, "norm_batch_size": 4},
        system={"collective_timeout_s": 20},
    )
    assert train(together, tmp_path, world_size=2) == [0, 0]
    one, two = Record.read(undisturbed), Record.read(tmp_path)
    assert two.last("images_evaluated") == 12
    assert two.last("loss") == pytest.approx(one.last("loss"), rel=0.2)


def test_a_rank_without_a_box_trains_on(tmp_path: Path) -> None:
    """DDP waits for the gradient of every parameter, and both ranks must end with the same weights."""
    results = on_ranks(_trained_with_and_without_boxes, 2, tmp_path)
    assert [missing for missing, _ in results] == [[], []]
    assert_bit_equal(results[0][1], results[1][1])


def _trained_with_and_without_boxes(rank: int, world_size: int) -> tuple[list[str], dict[str, torch.Tensor]]:
    from torch.nn.parallel import DistributedDataParallel

    from suite.detection.network import build_detector

    torch.manual_seed(0)
    model = build_detector(small_run(task={"framework": "mask_rcnn"})).train()
    ddp = DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    missing: list[str] = []
    for step in range(3):
        losses = ddp(*images_and_targets(int(rank == step % world_size), masks=True))
        torch.stack(list(losses.values())).sum().backward()
        missing += without_gradient(model)
        optimizer.step()
        optimizer.zero_grad()
    return missing, {name: p.detach().clone() for name, p in model.named_parameters()}


def test_statistics_over_ranks_count_each_value_once(tmp_path: Path) -> None:
    """Ranks have images of different sizes: their statistics are those of all pixels together."""
    values = torch.cat([_pixels(rank).transpose(0, 1).flatten(1) for rank in (0, 1)], dim=1)
    for mean, var, out in on_ranks(_normalised_over_ranks, 2, tmp_path):
        assert torch.allclose(mean, 0.1 * values.mean(dim=1), atol=1e-6)
        assert torch.allclose(var, 0.9 + 0.1 * values.var(dim=1), rtol=1e-5)
        assert out.isfinite().all()


def _pixels(rank: int) -> torch.Tensor:
    sizes = ((2, 3, 4, 6), (2, 3, 8, 5))
    return torch.rand(sizes[rank], generator=torch.Generator().manual_seed(rank)) + rank


def _normalised_over_ranks(rank: int, world_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    from suite.models import set_norm_batch_size

    norm = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    set_norm_batch_size(norm, 2 * world_size, 2, torch.device("cpu"))
    out = norm.train()(_pixels(rank))
    return norm[0].running_mean, norm[0].running_var, out.detach()


def test_the_gradients_are_clipped_to_a_joint_norm(run: Run) -> None:
    from suite.train.optim import clip_gradients

    a, b = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    both = torch.nn.ModuleList([a, b])
    a.weight.grad, b.weight.grad = torch.tensor([[3.0]]), torch.tensor([[4.0]])
    clip_gradients(both, None)
    assert (float(a.weight.grad), float(b.weight.grad)) == (3, 4)
    clip_gradients(both, 1.0)
    assert math.hypot(float(a.weight.grad), float(b.weight.grad)) == pytest.approx(1, rel=1e-4)
    assert float(a.weight.grad) == pytest.approx(0.6, rel=1e-4)
