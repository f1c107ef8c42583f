"""The logger of Weights & Biases, offline."""

from pathlib import Path

import pytest

from suite.train.loggers import WandbLogger
from tests.helpers.runs import make_run


def test_an_offline_run_is_in_the_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = make_run(system={"loggers": ["wandb"]})
    logger = WandbLogger(run, tmp_path, 0)
    logger.log({"val/top1_percent": 48.5, "epoch": 1}, 4)
    assert logger._run.config["batch"]["global_batch_size"] == 16
    logger.close(None)
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert folder.name.endswith(run.run_id)
    (file,) = folder.glob("*.wandb")
    content = file.read_bytes()  # which `wandb sync` sends to the server
    assert b"val/top1_percent" in content
    assert b"48.5" in content
