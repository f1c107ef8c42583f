"""`bench train` on several ranks: how they are started, what they share, and what is refused."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import train_command
from benchmarks.__main__ import app
from benchmarks.train import RIVALS, Step, bench_train
from suite.errors import UserError
from suite.train.distributed import Ranks
from tests.helpers.ranks import on_ranks

STEP = {"arch": "small_resnet11", "image_size": 16, "images_per_step": 8}


def test_ranks_are_processes_of_the_same_command(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def run(command: list[str]) -> Any:
        started.append(command)
        return SimpleNamespace(returncode=3)

    arguments = ["train", "--ranks", "4", "--rounds", "2"]
    monkeypatch.setattr(train_command.subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    assert CliRunner().invoke(app, arguments).exit_code == 3
    (command,) = started
    assert command[1:3] == ["-m", "torch.distributed.run"]
    assert "--nproc-per-node=4" in command
    assert command[-7:] == ["-m", "benchmarks", *arguments]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--ranks", "3"], "3 ranks do not divide 32 images per step"),
        (["--rival", "fastest"], "--rival fastest: take tuned, torchvision, timm"),
    ],
)
def test_what_no_run_could_be_is_refused(arguments: list[str], sentence: str) -> None:
    error = CliRunner().invoke(app, ["train", *arguments]).exception
    assert isinstance(error, UserError)
    assert str(error) == sentence


def measured(rank: int, world_size: int) -> list[str]:
    ranks = Ranks(rank, rank, world_size, torch.device("cpu"))
    step = Step(**STEP, ranks=world_size)
    return list(bench_train(step, 1, 1, ranks, norm_batch_sizes=(2,)))


def test_two_ranks_measure_the_same_ratios(tmp_path: Path) -> None:
    """TID's own time is the first rank's alone, and is not among them."""
    first, second = on_ranks(measured, 2, tmp_path)
    assert first == second
    names = [
        "training step / bare loop",
        "XBN step / BN step",
        "step with TID / without",
        "norm batch 2 / bn (time)",
    ]
    assert first == names


def test_a_ranks_share_of_a_step() -> None:
    run = Step(**STEP, ranks=2, cuda_graphs=True).run()
    assert (run.batch.global_batch_size, run.batch.per_gpu, run.batch.norm) == (8, 4, 4)
    assert run.system.cuda_graphs
    assert set(RIVALS) == {"tuned", "torchvision", "timm"}
