"""`system.kernels`: which code computes a run's norms, what the record says, and that results agree."""

import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from suite.errors import UserError
from suite.experiment import Run
from suite.kernels.layers import FusedNorm
from suite.record import Record
from suite.signals import StopFlag
from suite.train.distributed import Ranks
from suite.train.kernels import NormKernels, norm_kernels
from suite.train.loop import Trainer
from tests.helpers.bit_equal import assert_bit_equal, final_state, measured
from tests.helpers.runs import tiny_run
from tests.helpers.training_processes import train

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def run_with(kernels: str, **sections: dict[str, Any]) -> Run:
    recipe = {"channels_last": True, **sections.pop("recipe", {})}
    system = {"kernels": kernels, **sections.pop("system", {})}
    return tiny_run(recipe=recipe, system=system, measure={"precise_bn_images": 0}, **sections)


@pytest.mark.parametrize(
    ("kernels", "recipe", "device", "ran", "why"),
    [
        ("native", {}, CUDA, "native", ""),
        ("fused", {}, CUDA, "fused", ""),
        ("fused", {}, CPU, "fused", "rehearse"),
        ("auto", {}, CUDA, "fused", ""),
        ("auto", {}, CPU, "native", "on a CPU"),
        ("auto", {"channels_last": False}, CUDA, "native", "recipe.channels_last is false"),
        ("auto", {"compile": True}, CUDA, "native", "recipe.compile is true"),
    ],
)
def test_what_computes_the_norms(
    kernels: str, recipe: dict[str, object], device: torch.device, ran: str, why: str
) -> None:
    found = norm_kernels(run_with(kernels, recipe=recipe), device)
    assert found.ran == ran
    assert why in found.why
    assert bool(found.why) == bool(why)


def test_on_amds_gpus_auto_is_native_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0")
    untried = "the fused kernels have not been tried on AMD's GPUs"
    assert norm_kernels(run_with("auto"), CUDA) == NormKernels("native", untried)
    assert norm_kernels(run_with("fused"), CUDA) == NormKernels("fused", untried)
    assert norm_kernels(run_with("native"), CUDA) == NormKernels("native")


@pytest.mark.parametrize("recipe", [{"channels_last": False}, {"compile": True}])
def test_fused_where_it_is_not_possible_is_refused_with_the_reason(recipe: dict[str, object]) -> None:
    with pytest.raises(
        UserError,
        match=rf"system.kernels: fused is not possible here, but auto or native is: recipe.{min(recipe)}",
    ):
        norm_kernels(run_with("fused", recipe=recipe), CUDA)


def test_fused_where_no_norm_has_a_fused_form_is_refused() -> None:
    run = run_with("fused", model={"arch": "small_resnet11", "norm": {"kind": "frn"}})
    with pytest.raises(UserError, match="no norm of this network has a fused form"):
        Trainer(run, Ranks(0, 0, 1, CPU), None, StopFlag())


def test_a_network_of_vectors_needs_no_layout() -> None:
    run = tiny_run(
        model={"arch": "mlp10", "norm": {"kind": "bn"}},
        data={"image_size": 28},
        batch={"norm_batch_size": 8},
        system={"kernels": "fused"},
    )
    assert norm_kernels(run, CUDA) == NormKernels("fused")


def test_the_averages_of_the_weights_are_fused_as_the_network_is() -> None:
    trainer = Trainer(run_with("fused", recipe={"ema_decay": 0.9}), Ranks(0, 0, 1, CPU), None, StopFlag())
    networks = [trainer.model, *(one.module for one in trainer.averages._models.values())]
    assert len(networks) == 2
    assert [sum(isinstance(m, FusedNorm) for m in one.modules()) for one in networks] == [13, 13]


def assert_agree(fused: Path, native: Path) -> None:
    """Losses and statistics to 1 ‰; an accuracy of 25 images to one image."""
    one, other = final_state(fused), final_state(native)
    for name, value in other["model"].items():
        torch.testing.assert_close(
            one["model"][name], value, rtol=5e-3, atol=5e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
    for line, beside in zip(measured(fused), measured(native), strict=True):
        assert {**line, "value": 0} == {**beside, "value": 0}
        pairs = [(line["value"], beside["value"])]
        if isinstance(line["value"], list):
            pairs = list(zip(line["value"], beside["value"], strict=True))
        allowed = 4.1 if line["metric"].startswith("top") else 1e-4
        assert all(math.isclose(a, b, rel_tol=2e-3, abs_tol=allowed) for a, b in pairs), line["metric"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_fused_run_agrees_with_a_native_one_and_resumes_bit_equal(tmp_path: Path, ranks: int) -> None:
    """XBN with ghost groups, two epochs, by what computes the kernels' arithmetic on a CPU.

    At a learning rate at which rounding does not grow: at 0.05 a change of the weights by 10⁻⁷ is one of the
    loss by 10⁻³ after twelve steps, in native runs too.
    """
    batch = {"batch_size_per_gpu": 8, "norm_batch_size": 4}
    runs = {kernels: run_with(kernels, batch=batch, recipe={"lr": 1e-3}) for kernels in ("native", "fused")}
    assert runs["native"].run_id == runs["fused"].run_id
    for kernels, run in runs.items():
        assert train(run, tmp_path / kernels, world_size=ranks) == [0] * ranks
        assert Record.read(tmp_path / kernels).provenance[0]["kernels"]["ran"] == kernels
    assert_agree(tmp_path / "fused", tmp_path / "native")
    stopped = tmp_path / "stopped"
    assert train(runs["fused"], stopped, world_size=ranks, stop_by=signal.SIGKILL, stop_at=9) == [-9] * ranks
    assert train(runs["fused"], stopped, world_size=ranks) == [0] * ranks
    assert_bit_equal(final_state(stopped), final_state(tmp_path / "fused"))
    assert measured(stopped) == measured(tmp_path / "fused")
