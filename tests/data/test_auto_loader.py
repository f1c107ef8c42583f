"""`data.loader: auto`: DALI where it can serve, else torchvision, with a word."""

import logging
import sys
from pathlib import Path

import pytest
import torch

from suite.data import folder_loader
from suite.data.auto import Serving, check_same, installed, serving
from suite.data.dali import DaliLoader
from suite.data.vision import VisionLoader
from suite.data.workers import need_less, shared_memory_of_run
from suite.errors import UserError
from suite.experiment import DataSpec, Run
from suite.record import Record, RecordWriter
from suite.signals import StopFlag
from suite.train import train_on
from suite.train.distributed import Ranks
from tests.helpers.runs import make_run

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def fashion(loader: str) -> DataSpec:
    return DataSpec(name="fashion-mnist-7k", image_size=28, val_images=20, loader=loader)


@pytest.fixture
def without_dali(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    for name in ("suite.data.dali", "suite.data.dali_graph"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_dali_serves_where_it_is_installed() -> None:
    assert serving("auto", CPU) == serving("auto", GPU) == Serving("dali")
    loader = folder_loader(fashion("auto"), "val", images_per_batch=10, device=CPU)
    assert isinstance(loader._loader, DaliLoader)
    loader.close()


def test_without_dali_torchvision_serves_and_says_so(
    without_dali: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "shiftbench")
    loader = folder_loader(fashion("auto"), "val", images_per_batch=10, device=CPU)
    assert isinstance(loader._loader, VisionLoader)
    loader.close()
    assert "data.loader: auto: torchvision serves: the loader dali cannot be imported" in caplog.text
    assert serving("auto", CPU).ran == "torchvision"
    assert "pip install" not in serving("auto", CPU).why  # nothing is wrong
    assert serving("dali", CPU) == Serving("dali")
    with pytest.raises(
        UserError, match=r"cannot be imported .*: pip install 'shiftbench\[dali\]', or set data.loader=auto,"
    ):
        folder_loader(fashion("dali"), "val", images_per_batch=10, device=CPU)


def test_on_amds_gpus_torchvision_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0")
    why = "DALI computes on NVIDIA's GPUs, and this one is AMD's"
    assert serving("auto", GPU) == Serving("torchvision", why)
    assert serving("auto", CPU) == Serving("dali")
    with pytest.raises(
        UserError,
        match=f"data.loader: dali is not possible here: {why}; set it to auto or torchvision",
    ):
        folder_loader(fashion("dali"), "val", images_per_batch=10, device=GPU)


def test_shared_memory_is_needed_where_torchvision_would_serve(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Two batches of each of two loaders' two workers and the one in use, of 16 images of 28 × 28."""
    run = make_run(
        data={"name": "fashion-mnist-7k", "image_size": 28, "loader": "auto"}, system={"data_threads": 2}
    )
    assert (installed("auto"), shared_memory_of_run(run)) == ("dali", 0)
    assert need_less().endswith(", or set data.loader=dali")
    with monkeypatch.context() as patch:
        patch.setattr("suite.data.auto.version", lambda name: "2.11.0+rocm7.0")
        assert installed("auto") == "torchvision"
    request.getfixturevalue("without_dali")
    assert (installed("auto"), installed("dali")) == ("torchvision", "dali")
    assert shared_memory_of_run(run) == 9 * 16 * 3 * 28 * 28 * 4
    assert need_less() == "or lower batch.batch_size_per_gpu or system.data_threads"


@pytest.mark.parametrize(
    ("before", "has_checkpoint", "is_refused"),
    [("dali", True, True), ("torchvision", True, False), ("dali", False, False), (None, True, False)],
)
def test_a_run_is_not_resumed_with_another_loader(
    before: str | None,
    has_checkpoint: bool,
    is_refused: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stopped_here(record: RecordWriter, ranks: Ranks) -> None:
        raise UserError("stopped here")

    monkeypatch.setattr("suite.train.serving", lambda *_: Serving("torchvision", "no DALI"))
    monkeypatch.setattr("suite.train._newest_state", stopped_here)
    run = make_run(data={"name": "fashion-mnist-7k", "image_size": 28, "loader": "auto"})
    with RecordWriter(run, tmp_path) as record:
        record.start({} if before is None else {"loader": {"ran": before, "why": ""}})
    if has_checkpoint:
        record.paths.checkpoints.mkdir()
        record.paths.checkpoint(4).touch()
    with pytest.raises(UserError) as caught:
        train_on(run, tmp_path, Ranks(0, 0, 1, CPU), StopFlag())
    found = Record.read(tmp_path)
    assert (found.state, found.reason) == ("failed", str(caught.value))
    if is_refused:
        assert str(caught.value) == (
            "data.loader: auto: dali has served this run so far, and here torchvision would serve (no DALI): "
            "resume it where dali serves, or set data.loader to one of them, which makes a run of its own"
        )
        assert len(found.provenance) == 1
    else:
        assert str(caught.value) == "stopped here"
        assert found.provenance[-1]["loader"] == {"ran": "torchvision", "why": "no DALI"}


def test_the_ranks_of_a_run_have_one_loader() -> None:
    with pytest.raises(
        UserError, match="auto: dali on n1 and torchvision on n2 would serve one run: install"
    ):
        check_same(["dali", "dali", "torchvision"], ["n1", "n1", "n2"], None, "")


def test_it_is_a_run_of_its_own() -> None:
    def run(loader: str) -> Run:
        return make_run(data={"name": "fashion-mnist-7k", "image_size": 28, "loader": loader})

    assert len({run(loader).run_id for loader in ("auto", "dali", "torchvision")}) == 3
