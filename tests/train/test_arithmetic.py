"""Precisions: what torch is set to, what is recorded, and float16's scaled loss."""

from typing import Any

import pytest
import torch
from torch import nn

from suite.experiment import RecipeSpec, Run
from suite.specs.recipe import PRECISIONS
from suite.train.arithmetic import arithmetic, arithmetic_of
from suite.train.meter import matmul_peak_flops_per_s
from suite.train.optim import Optimizer, build_optimizer
from tests.helpers.runs import make_run

CPU = torch.device("cpu")


def settings() -> tuple[bool, bool, bool]:
    """Whether convolutions and products are TF32, and whether cuDNN measures, where torch's names agree."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    found = cudnn.conv.fp32_precision == "tf32", matmul.fp32_precision == "tf32"
    assert found == (cudnn.allow_tf32, matmul.allow_tf32)  # which torch's compiler reads
    return *found, cudnn.benchmark


@pytest.mark.parametrize(
    ("precision", "convolutions", "products"),
    [("fp32", False, False), ("tf32", True, True), ("bf16", True, False), ("fp16", True, False)],
)
def test_which_float32_is_tf32(precision: str, convolutions: bool, products: bool) -> None:
    former = settings()
    with arithmetic(precision, cudnn_benchmark=True):
        assert settings() == (convolutions, products, True)
        with arithmetic("fp32"):
            assert settings() == (False, False, False)
        assert settings() == (convolutions, products, True)
    assert settings() == former


def test_a_run_that_fails_leaves_the_next_runs_arithmetic_alone() -> None:
    former = settings()
    with pytest.raises(ZeroDivisionError), arithmetic("tf32"):
        raise ZeroDivisionError
    assert matmul_peak_flops_per_s(CPU, "tf32") > 0
    assert settings() == former


def test_every_precision_is_another_result_and_fp32_keeps_its_runs() -> None:
    runs = {name: make_run(recipe={"epochs": 6, "precision": name}) for name in PRECISIONS}
    assert len({run.run_id for run in runs.values()}) == len(PRECISIONS)
    assert runs["fp32"].run_id == make_run().run_id
    assert make_run(system={"cudnn_benchmark": False}).run_id == make_run().run_id


def test_cudnn_measures_where_all_steps_have_one_shape() -> None:
    def is_measured(run: Run) -> object:
        return arithmetic_of(run)["cudnn_benchmark"]

    detection: dict[str, Any] = {
        "task": {"kind": "detection", "backbone_from": "torchvision"},
        "model": {"arch": "resnet50"},
        "data": {"name": "coco", "path": "/data"},
    }
    assert [is_measured(make_run()), is_measured(make_run(**detection))] == [True, False]
    assert not is_measured(make_run(system={"cudnn_benchmark": False}))
    assert is_measured(make_run(**detection, system={"cudnn_benchmark": True}))


def optimizer_of(weight: nn.Parameter, **recipe: Any) -> Optimizer:
    model = nn.Module()
    model.register_parameter("weight", weight)
    return Optimizer(model, RecipeSpec(precision="fp16", weight_decay=0, lr=0.1, **recipe), CPU)


def test_a_scaled_step_is_the_plain_one() -> None:
    """Gradients 1 and 2, momentum 0.9: 1 − 0.1 · 1 − 0.1 · 2.9. Clipped: 1 − 0.1 · 0.5 − 0.1 · 0.95."""
    for clip, expected in ((None, 0.61), (0.5, 0.855)):
        weight = nn.Parameter(torch.ones(()))
        optimizer = optimizer_of(weight, clip_grad_norm=clip)
        for factor in (1.0, 2.0):
            optimizer.backward(weight * factor)
            optimizer.step()
        assert float(weight) == pytest.approx(expected)
        assert weight.grad is None


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_overflows_is_left_out_and_halves_the_scale(
    fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the first: its momentum begins with 0, and the next step is as the first."""
    monkeypatch.setattr(torch, "empty_like", lambda x: torch.full_like(x, torch.nan))  # it may be anything
    weight = nn.Parameter(torch.ones(()))
    optimizer = optimizer_of(weight)
    if fused:  # as on a GPU
        optimizer.sgd = build_optimizer(optimizer._model, RecipeSpec(weight_decay=0), fused=True)
    optimizer.backward(weight * float("inf"))
    optimizer.step()
    assert float(weight) == 1
    assert optimizer.state()["scaler"]["scale"] == 2**15
    resumed = optimizer_of(nn.Parameter(weight.detach().clone()))
    resumed.load(optimizer.state())
    assert resumed.state()["scaler"] == optimizer.state()["scaler"]
    optimizer.backward(weight)
    optimizer.step()
    assert float(weight) == pytest.approx(0.9)


def test_a_checkpoint_of_a_gpu_goes_on_here_without_its_kernel() -> None:
    weight = nn.Parameter(torch.ones(()))
    optimizer = optimizer_of(weight)
    state = optimizer.state()
    for group in state["optimizer"]["param_groups"]:
        group["fused"] = True
    optimizer.load(state)
    assert [group["fused"] for group in optimizer.sgd.param_groups] == [None, None]


def test_a_recorded_optimizer_reads_its_learning_rate_from_memory_and_saves_it_as_a_number() -> None:
    """1 − 0.1 · 1, then momentum 0.9 and a rate of 0.01: − 0.01 · 1.9."""
    weight, model = nn.Parameter(torch.ones(())), nn.Module()
    model.register_parameter("weight", weight)
    optimizer = Optimizer(model, RecipeSpec(weight_decay=0, lr=0.1), CPU, is_recorded=True)
    in_memory = optimizer.sgd.param_groups[0]["lr"]
    for lr in (0.1, 0.01):
        optimizer.set_lr(lr)
        optimizer.backward(weight * 1.0)
        optimizer.step()
    assert float(weight) == pytest.approx(0.881)
    state = optimizer.state()
    assert [group["lr"] for group in state["optimizer"]["param_groups"]] == [0.01, 0.01]
    assert isinstance(in_memory, torch.Tensor)
    optimizer.set_lr(0.5)
    optimizer.load(state)
    assert all(group["lr"] is in_memory for group in optimizer.sgd.param_groups)
    assert float(in_memory) == pytest.approx(optimizer.lr) == pytest.approx(0.01)
