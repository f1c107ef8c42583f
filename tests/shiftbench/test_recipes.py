"""The code of docs/callbacks.md runs as it stands there."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

TEXT = (Path(__file__).parents[2] / "docs" / "callbacks.md").read_text()
PLAIN, LIGHTNING, HUGGING_FACE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def loader(size: int = 32) -> DataLoader[Any]:
    torch.manual_seed(0)
    return DataLoader(TensorDataset(torch.randn(8, 3, size, size), torch.randint(2, (8,))), batch_size=4)


def test_a_plain_loop_with_a_network_of_timm(capsys: pytest.CaptureFixture[str]) -> None:
    import timm

    model = timm.create_model("resnet10t", num_classes=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    names = {"model": model, "optimizer": optimizer, "epochs": 2, "F": F}
    exec(PLAIN, names | {"train_loader": loader(), "val_loader": loader()})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["1", "2"]
    assert all(float(value) > 0 for line in lines for value in line[1:])
    assert len([line for line in PLAIN.splitlines() if line and not line.startswith("import")]) <= 12


def test_lightning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import pytorch_lightning as pl

    from tests.shiftbench.test_lightning import make_module

    monkeypatch.chdir(tmp_path)
    module = make_module()
    module.forward = module.net.forward
    names: dict[str, Any] = {"pl": pl, "module": module, "train_loader": loader(4), "val_loader": loader(4)}
    exec(LIGHTNING, names)
    assert "shift/esm_mu_scaled" in names["trainer"].callback_metrics


def test_hugging_face(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import transformers

    from tests.shiftbench.test_huggingface import Images, Network

    monkeypatch.chdir(tmp_path)
    arguments = transformers.TrainingArguments(
        num_train_epochs=2, report_to=[], use_cpu=True, save_strategy="no"
    )
    names: dict[str, Any] = {"transformers": transformers, "model": Network(), "images": Images()}
    exec(HUGGING_FACE, names | {"arguments": arguments})
