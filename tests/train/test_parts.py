"""The parts of training: parameter groups, mixup, the meter, checkpoints, and what a step really does."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pynvml
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from suite.config import expand
from suite.data import Batch
from suite.experiment import RecipeSpec, Run
from suite.models import build_model
from suite.models.batch_free import GroupWhitening
from suite.paths import RunPaths
from suite.signals import StopFlag
from suite.train.checkpoint import CheckpointStore
from suite.train.distributed import Ranks
from suite.train.loop import Trainer
from suite.train.measure import measure_work
from suite.train.meter import Meter, matmul_peak_flops_per_s
from suite.train.metric_logger import MetricLogger
from suite.train.nvml import Nvml
from suite.train.optim import build_optimizer, mixup, seed_for
from suite.train.task import task_of

CPU = torch.device("cpu")


def synthetic_run(**sections: object) -> Run:
    content = {
        "model": {"arch": "small_resnet11"},
        "data": {
            "name": "synthetic",
            "num_classes": 10,
            "image_size": 28,
            "train_images": 64,
            "val_images": 8,
        },
        "batch": {"global_batch_size": 8},
        "recipe": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "schedule": "constant"},
        **sections,
    }
    return expand(content, "parts").runs[0]


def test_groups_are_by_module_type_and_hold_every_parameter_once() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        GroupWhitening(2, 4),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    model.bn_like_name = nn.Linear(4, 4)  # a name that says nothing about its type
    layers, others = build_optimizer(model, RecipeSpec(weight_decay=0.1, norm_weight_decay=0.0)).param_groups
    weights = {id(model[0].weight), id(model[5].weight), id(model.bn_like_name.weight)}
    assert {id(p) for p in layers["params"]} == weights
    assert len(layers["params"]) + len(others["params"]) == len(list(model.parameters()))
    assert (layers["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    paper = build_optimizer(model, RecipeSpec()).param_groups
    assert [group["weight_decay"] for group in paper] == [1e-4, 1e-4]


def test_one_step_is_the_gradient_of_the_global_batch_however_it_is_split() -> None:
    """With a norm that knows no batch, 8 images at once and 4 × 2 accumulated give one update."""
    weights = []
    for per_gpu in (8, 2):
        batch = {"global_batch_size": 8, "batch_size_per_gpu": per_gpu}
        run = synthetic_run(batch=batch, model={"arch": "small_resnet11", "norm": {"kind": "gn"}})
        trainer = Trainer(run, Ranks(0, 0, 1, CPU), None, StopFlag())
        generator = torch.Generator().manual_seed(3)
        images, labels = torch.randn(16, 3, 28, 28, generator=generator), torch.arange(16) % 10
        parts = zip(images.split(per_gpu), labels.split(per_gpu), strict=True)
        batches = iter([Batch(*part) for part in parts])
        trainer.advance(trainer.forward_module(), batches)
        trainer.advance(trainer.forward_module(), batches)
        weights.append(trainer.model.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-5)


def test_one_step_against_sgd_written_out() -> None:
    run = synthetic_run(recipe={"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "label_smoothing": 0.1})
    trainer = Trainer(run, Ranks(0, 0, 1, CPU), None, StopFlag())
    torch.manual_seed(run.seed)
    model = build_model(run.model).train()
    batch = Batch(torch.randn(8, 3, 28, 28), torch.arange(8))
    trainer.advance(trainer.forward_module(), iter([batch]))
    # Label smoothing by hand: 0.9 on the label, 0.1 spread over all ten classes.
    log_p = F.log_softmax(model(batch.images_NCHW), dim=1)
    loss = -(0.9 * log_p[torch.arange(8), batch.labels_N] + 0.1 * log_p.mean(dim=1)).mean()
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * (parameter.grad + 0.01 * parameter)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(trainer.model.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_a_step_measures_tid_at_each_of_its_passes() -> None:
    """Two passes of four images: the stem's TID from its inputs and its estimates after each."""
    run = synthetic_run(batch={"global_batch_size": 8, "batch_size_per_gpu": 4})
    trainer = Trainer(run, Ranks(0, 0, 1, CPU), None, StopFlag())
    expected: list[float] = []

    def listen(layer: nn.Module, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        x_CM = inputs[0].detach().double().transpose(0, 1).flatten(1)
        sigma = (x_CM.var(1, correction=0) + layer.eps).sqrt()
        expected.append(((layer.running_mean - x_CM.mean(1)).abs() / sigma).mean().item())

    trainer.model.bn1.register_forward_hook(listen)
    images, labels = torch.randn(8, 3, 28, 28), torch.arange(8)
    parts = zip(images.split(4), labels.split(4), strict=True)
    trainer.advance(trainer.forward_module(), iter([Batch(*part) for part in parts]))
    assert trainer.tid.num_passes_L.tolist() == [2] * 13
    tid_mu, tid_sigma = trainer.tid.pop_epoch_means()
    assert len(tid_mu) == len(tid_sigma) == 13
    assert tid_mu[0] == pytest.approx(sum(expected) / 2, rel=1e-4)


def test_tid_is_measured_only_on_request_and_with_bn() -> None:
    for sections in (
        {"measure": {"tid": False}},
        {"model": {"arch": "small_resnet11", "norm": {"kind": "gn"}}},
    ):
        assert Trainer(synthetic_run(**sections), Ranks(0, 0, 1, CPU), None, StopFlag()).tid is None
    shared = synthetic_run(batch={"global_batch_size": 8, "batch_size_per_gpu": 4})
    assert Trainer(shared, Ranks(1, 1, 2, CPU), None, StopFlag()).tid is None  # the first rank has it


def test_mixup_is_a_function_of_its_key() -> None:
    images, labels = torch.randn(6, 3, 2, 2), torch.arange(6)
    mixed, others, weight = mixup(images, labels, 0.4, (1, 2, 3))
    torch.testing.assert_close(mixed, weight * images + (1 - weight) * images[others])
    again = mixup(images, labels, 0.4, (1, 2, 3))
    assert torch.equal(mixed, again[0])
    assert weight == again[2]
    assert mixup(images, labels, 0.4, (1, 2, 4))[2] != weight
    weights = [mixup(images, labels, 0.4, (i,))[2] for i in range(400)]
    assert np.mean(weights) == pytest.approx(0.5, abs=0.06)
    assert np.var(weights) == pytest.approx(1 / (4 * 1.8), abs=0.03)  # Beta(α, α): 1 / (4 (2α + 1))
    assert seed_for(1, 2) != seed_for(2, 1)


def test_the_meter_leaves_warm_up_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 9.0, 9.5, 10.0, 10.0, 10.5, 10.6, 10.7, 11.0, 11.0, 11.0, 12.0, 13.0])
    monkeypatch.setattr("suite.train.meter.time.perf_counter", lambda: next(clock))
    meter = Meter(warmup_steps=1, device=CPU)  # 0
    with meter.waiting_for_data():  # 9 to 9.5
        pass
    meter.step_done()  # 10: the warm-up step
    with meter.waiting_for_data():  # 10 to 10.5
        pass
    meter._note_gradient(torch.zeros(()))  # 10.6
    meter.gradients_exchanged()  # 10.7
    meter.step_done()  # 11: one second, half of it waiting
    with meter.waiting_for_data():  # 11 to 11
        pass
    meter.step_done()  # 12: one second, no waiting
    summary = meter.summary(global_batch_size=100)  # 13
    assert summary["images_per_s"] == pytest.approx(100)
    assert summary["data_wait_share"] == pytest.approx(0.25)
    assert summary["communication_share"] == pytest.approx(0.05)
    assert summary["compute_share"] == pytest.approx(0.7)
    assert (summary["step_time_p50_ms"], summary["epoch_time_s"]) == (pytest.approx(1000), pytest.approx(13))


def test_the_meter_compares_later_steps_with_earlier_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step is left out; of the ten that are timed five take 2 s, one 9 s, and four 3 s."""
    durations = [7.0, 2.0, 2.0, 2.0, 2.0, 2.0, 9.0, 3.0, 3.0, 3.0, 3.0]
    *ends, last = itertools.accumulate(durations)
    clock = iter([0.0, *ends, 40.0, last, 50.0])
    monkeypatch.setattr("suite.train.meter.time.perf_counter", lambda: next(clock))
    meter = Meter(warmup_steps=1, device=CPU)
    for number in range(len(durations)):
        if number == 10:
            assert "step_time_drift" not in meter.summary(8)  # of nine steps
        meter.step_done()
    assert meter.summary(8)["step_time_drift"] == pytest.approx(1.5)


def test_without_a_timed_step_there_is_no_speed() -> None:
    meter = Meter(warmup_steps=5, device=CPU)
    meter.step_done()
    assert set(meter.summary(8)) == {"epoch_time_s", "peak_memory_gib"}


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """NVML with one GPU, whose counter has risen by 3 J at each look."""
    total_mj = {"GPU-a-b": 7_000}

    def look(handle: str) -> int:
        if handle not in total_mj:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        total_mj[handle] += 3_000
        return total_mj[handle]

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", look)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="a-b"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return total_mj


def test_energy_is_read_from_the_counter_of_the_device_itself(
    one_gpu: dict[str, int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gpu = torch.device("cuda", 0)
    counter = Nvml(gpu)
    assert (counter.energy_j(), counter.energy_j()) == (10.0, 13.0)
    assert Nvml(CPU).energy_j() is None
    with monkeypatch.context() as patch, caplog.at_level("INFO", logger="shiftbench"):
        patch.setattr(torch.version, "hip", "7.0")
        assert Nvml(gpu).energy_j() is Nvml(gpu).process_bytes() is None
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["AMD's GPUs have no NVML"]
    with monkeypatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "MIG-0")
        assert Nvml(gpu).energy_j() is None
    one_gpu.clear()  # a GPU without a counter
    assert Nvml(gpu).energy_j() is None

    def refuse() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", refuse)
    assert Nvml(gpu).energy_j() is None  # a machine without the driver


def test_energy_is_per_image_and_over_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(warmup_steps=5, device=CPU)
    assert meter.energy_j_per_step() is None
    looks = iter([10.0, 22.0])
    monkeypatch.setattr(meter._nvml, "energy_j", lambda: next(looks))
    meter.restart_epoch()
    for _ in range(3):
        meter.step_done()  # a warm-up step takes energy too
    j = meter.energy_j_per_step()
    assert j == 4.0
    written: list[tuple[str, float, str]] = []
    metrics = MetricLogger(Ranks(0, 0, 1, CPU), None)
    monkeypatch.setattr(metrics, "measure", lambda *what, **_: written.append(what))
    metrics.energy(None, 8, epoch=1, step=3)
    metrics.energy(j, 8, epoch=1, step=3)
    assert written == [("energy_j_per_image", 0.5, "train")]


def test_work_of_a_network_by_hand() -> None:
    """ResNet-18 at 224 px: 1.814 G multiply-adds forward; backward twice that, less the images' gradient."""
    run = synthetic_run(model={"arch": "resnet18"}, data={"name": "synthetic", "image_size": 224})
    work = measure_work(run, task_of(run), build_model(run.model), Ranks(0, 0, 1, CPU), images_per_s=10.0)
    stem = 2 * 64 * 3 * 49 * 112 * 112
    assert work["flops_per_image"] == pytest.approx(3 * 2 * 1.814e9 - stem, rel=2e-3)
    expected = work["flops_per_image"] * 10 / work["matmul_peak_flops_per_s"]
    assert work["matmul_peak_share"] == pytest.approx(expected)


@pytest.mark.parametrize(("threads", "size"), [(1, 512), (2, 1024)])
def test_products_that_take_seconds_are_not_repeated(
    monkeypatch: pytest.MonkeyPatch, threads: int, size: int
) -> None:
    done: list[None] = []
    clock = itertools.count(0, 5)  # each look is 5 s later
    monkeypatch.setattr("suite.train.meter.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr(torch, "mm", lambda *_: done.append(None))
    monkeypatch.setattr("suite.train.meter.PEAK_S", 6)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert matmul_peak_flops_per_s(CPU, "fp32") == 2 * size**3 / 5
    assert len(done) == 1


def test_two_checkpoints_are_kept_and_the_newest_complete_one_is_found(tmp_path: Path) -> None:
    store = CheckpointStore(RunPaths(tmp_path))
    assert store.newest() == (None, [])
    for step in (3, 20, 100):
        store.save(step, {"step": step, "weights": torch.zeros(1000)})
    assert RunPaths(tmp_path).checkpoint_steps() == [20, 100]
    (tmp_path / "checkpoints" / ".step-00000200.pt.tmp").write_bytes(b"cut short by kill -9")
    assert store.newest()[0]["step"] == 100
    newest = RunPaths(tmp_path).checkpoint(100)
    newest.write_bytes(newest.read_bytes()[:500])
    state, passed_over = store.newest()
    assert state["step"] == 20
    assert "step-00000100.pt" in passed_over[0]
    store.save(300, {"step": 300})
    assert sorted(p.name for p in newest.parent.iterdir()) == ["step-00000100.pt", "step-00000300.pt"]
