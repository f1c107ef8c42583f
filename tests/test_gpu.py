"""What only a GPU can show. Without one these tests are skipped, and the summary says so."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn

from suite.config import expand
from suite.data import train_loader, val_loader
from suite.detection.loaders import detection_train_loader
from suite.experiment import Run
from suite.models import build_model
from suite.record import Record
from suite.shift import probe
from suite.signals import StopFlag
from suite.train import train_run
from suite.train.boundary import CHECK_LOSS_EVERY_STEPS
from suite.train.distributed import Ranks, _pci_address
from suite.train.graphs import WARMUP_STEPS
from suite.train.loop import Trainer
from tests.helpers.small_detectors import boxes_folder, small_run
from tests.helpers.steps import STEPS_ON_GPU, run_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU: NOT TESTED on one"),
]
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def gpu_run(recipe: dict[str, object], norm: str = "xbn", kernels: str = "native") -> Run:
    content = {
        "model": {"arch": "resnet18", "norm": {"kind": norm}},
        "data": {"name": "fashion-mnist-7k", "image_size": 64, "train_images": 512, "val_images": 128},
        "batch": {"global_batch_size": 64},
        "recipe": {"epochs": 2, "lr": 0.05, **recipe},
        "measure": {"precise_bn_images": 128, "warmup_steps": 2},
        "system": {"kernels": kernels},
    }
    return expand(content, "gpu").runs[0]


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_gpu_pipeline_decodes_and_crops_as_the_cpu_one(split: str) -> None:
    run = gpu_run({})
    batches = []
    for device in (CPU, CUDA):
        if split == "train":
            loader = train_loader(run, start_step=0, rank=0, world_size=1, device=device)
        else:
            loader = val_loader(run, images_per_batch=64, rank=0, world_size=1, device=device)
        batches.append(next(iter(loader)))
        loader.close()
    on_cpu, on_gpu = batches
    assert on_gpu.images_NCHW.device == CUDA
    assert torch.equal(on_cpu.labels_N, on_gpu.labels_N.cpu())
    # Normalised units: 0.02 is about one grey level of 255. The two decoders round differently.
    difference = (on_cpu.images_NCHW - on_gpu.images_NCHW.cpu()).abs()
    assert difference.mean() < 0.02
    assert difference.quantile(0.999) < 0.15


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"precision": "tf32"},
        {"precision": "fp16", "clip_grad_norm": 5.0},
        {"precision": "bf16"},
        {"precision": "bf16", "channels_last": True},
        {"precision": "bf16", "channels_last": True, "compile": True},
    ],
    ids=["fp32", "tf32", "fp16", "bf16", "channels_last", "compile"],
)
def test_a_run_on_the_gpu_completes_and_learns(recipe: dict[str, object], tmp_path: Path) -> None:
    train_run(gpu_run(recipe), tmp_path)
    record = Record.read(tmp_path)
    assert record.state == "completed"
    assert record.provenance[0]["device"] == torch.cuda.get_device_name(0)
    assert record.last("top1_percent", "val") > 30
    assert record.last("images_per_s") > 0
    assert record.last("peak_memory_gib") > 0.1
    assert 0 < record.last("matmul_peak_share") < 1
    # A data-centre GPU draws less than a kilowatt, and computes more than ten of these images in a second.
    assert 0 < record.last("energy_j_per_image") < 100


@pytest.mark.parametrize("norm", ["bn", "xbn", "gn"])
def test_a_run_with_fused_kernels_completes_and_agrees(norm: str, tmp_path: Path) -> None:
    """To what two native runs differ by, whose reductions are not in a fixed order either."""
    found = {}
    for kernels in ("native", "fused"):
        recipe = {"precision": "bf16", "channels_last": True}
        train_run(gpu_run(recipe, norm, kernels), tmp_path / kernels)
        record = Record.read(tmp_path / kernels)
        assert record.provenance[0]["kernels"]["ran"] == kernels
        found[kernels] = record.last("loss", "train")
    assert found["fused"] == pytest.approx(found["native"], rel=0.1)


def test_the_probe_on_the_gpu_agrees_with_the_cpu() -> None:
    torch.manual_seed(0)
    model = build_model(gpu_run({}, norm="bn").model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    images = torch.randn(32, 3, 64, 64)
    on_cpu = probe(model, images.split(8))
    on_gpu = probe(model.to(CUDA), images.split(8))
    for one, other in zip(on_cpu.layers, on_gpu.layers, strict=True):
        assert one.name == other.name
        assert one.esm_sigma == pytest.approx(other.esm_sigma, rel=2e-2)


@contextmanager
def refusing_to_wait() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("case", STEPS_ON_GPU)
def test_steps_do_not_wait(case: str) -> None:
    """After the steps that set things up, as torch itself watches it. Recorded steps set up more."""
    run = run_of(case)
    trainer = Trainer(run, Ranks(0, 0, 1, CUDA), None, StopFlag())
    forward = trainer.forward_module()
    batches = iter(train_loader(run, start_step=0, rank=0, world_size=1, device=CUDA))
    first = 2 if trainer.graph is None else WARMUP_STEPS + 1
    trainer.step = CHECK_LOSS_EVERY_STEPS - 3  # checks of the loss are among the steps
    for number in range(26):
        with refusing_to_wait() if number >= first else nullcontext():
            trainer.agree(trainer.advance(forward, batches))
    assert 0 < trainer.meter.summary(8)["step_time_p50_ms"] < 1000


@pytest.mark.parametrize("kernels", ["native", "fused"])
def test_steps_of_a_graph_do_what_steps_do(kernels: str) -> None:
    """Weights, estimates and momenta after 16 steps, with mixup and a learning rate that changes.

    To what two runs of torch's own kernels differ by, which do not add up in a fixed order.
    """
    states = []
    for cuda_graphs in (False, True):
        content = {
            "model": {"arch": "small_resnet11"},
            "data": {"name": "synthetic", "num_classes": 10, "image_size": 28, "train_images": 800},
            "batch": {"global_batch_size": 8, "norm_batch_size": 2},
            "recipe": {
                "epochs": 2,
                "lr": 1e-3,
                "schedule": "cosine",
                "mixup_alpha": 0.2,
                "channels_last": True,
            },
            "system": {"cuda_graphs": cuda_graphs, "kernels": kernels},
        }
        run = expand(content, "graphs").runs[0]
        trainer = Trainer(run, Ranks(0, 0, 1, CUDA), None, StopFlag())
        forward = trainer.forward_module()
        batches = iter(train_loader(run, start_step=0, rank=0, world_size=1, device=CUDA))
        losses = [trainer.advance(forward, batches).item() for _ in range(16)]
        assert len(set(losses)) == 16
        states.append((losses, trainer.model.state_dict()))
    (losses, state), (others, other) = states
    assert losses == pytest.approx(others, rel=1e-3)
    for name, value in state.items():
        torch.testing.assert_close(value, other[name], rtol=1e-3, atol=1e-5)


def test_the_gpu_pipeline_resizes_and_mirrors_images_with_boxes_as_the_cpu_one(tmp_path: Path) -> None:
    run = small_run(boxes_folder(tmp_path / "boxes"), data={"loader": "dali"})
    place = {"start_step": 0, "rank": 0, "world_size": 1}
    batches = []
    for device in (CPU, CUDA):
        loader = detection_train_loader(run, **place, device=device)
        batches.append(list(islice(loader, 3)))
        loader.close()
    for on_cpu, on_gpu in zip(*batches, strict=True):
        for image, other in zip(on_cpu.images, on_gpu.images, strict=True):
            assert other.device == CUDA
            # Noise of single pixels: the two resize and round differently.
            assert (image - other.cpu()).abs().mean() < 0.02
        for target, other_target in zip(on_cpu.targets, on_gpu.targets, strict=True):
            assert all(torch.equal(target[key], other_target[key].cpu()) for key in target)


@pytest.mark.parametrize("framework", ["faster_rcnn", "mask_rcnn", "retinanet"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_detection_run_on_the_gpu_completes(framework: str, precision: str, tmp_path: Path) -> None:
    """Its losses and AP are finite, and its frozen and trained norms are measured."""
    run = small_run(
        boxes_folder(tmp_path / "boxes"),
        task={"framework": framework, "trained_stages": 3},
        data={"loader": "dali"},
        recipe={"precision": precision},
    )
    train_run(run, tmp_path / "run")
    record = Record.read(tmp_path / "run")
    assert record.state == "completed"
    assert record.provenance[0]["device"] == torch.cuda.get_device_name(0)
    assert 0 < record.last("loss") < 100
    assert 0 <= record.last("ap_percent") <= 100
    assert record.last("images_evaluated") == 12
    assert len(record.last_per_layer("esm_sigma_scaled", "val")) == 13


def test_the_system_knows_the_gpu_by_its_address() -> None:
    """By it a rank finds its GPU's NUMA node."""
    assert Path("/sys/bus/pci/devices", str(_pci_address(CUDA))).exists()
