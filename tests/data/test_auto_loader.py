"""`data.loader: auto`: DALI where it can serve, else torchvision, with a word."""

import logging
import sys

import pytest
import torch

from suite.data import folder_loader
from suite.data.auto import Serving, serving
from suite.data.dali import DaliLoader
from suite.data.vision import VisionLoader
from suite.errors import UserError
from suite.experiment import DataSpec, Run
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
    assert serving("dali", CPU) == Serving("dali")
    with pytest.raises(
        UserError, match=r"the loader dali cannot be imported .*: pip install 'shiftbench\[dali\]', or"
    ):
        folder_loader(fashion("dali"), "val", images_per_batch=10, device=CPU)


def test_on_amds_gpus_torchvision_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0")
    why = "DALI computes on NVIDIA's GPUs, and this one is AMD's"
    assert serving("auto", GPU) == Serving("torchvision", why)
    assert serving("auto", CPU) == Serving("dali")
    with pytest.raises(
        UserError, match=f"data.loader: dali is not possible here: {why}; set auto or torchvision"
    ):
        folder_loader(fashion("dali"), "val", images_per_batch=10, device=GPU)


def test_it_is_a_run_of_its_own() -> None:
    def run(loader: str) -> Run:
        return make_run(data={"name": "fashion-mnist-7k", "image_size": 28, "loader": loader})

    assert len({run(loader).run_id for loader in ("auto", "dali", "torchvision")}) == 3
