"""The logger of Weights & Biases, offline."""

import time
from pathlib import Path

import pytest

from suite.train.loggers import Loggers
from tests.helpers.runs import make_run


def test_an_offline_run_is_in_the_runs_folder_and_goes_on_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    # What an earlier attempt would have noted.
    noted = '{"wandb": {"id": "former-id", "steps": {"val/top1_percent": 4, "epoch": 4}}}'
    (tmp_path / "loggers.json").write_text(noted)
    loggers = Loggers(make_run(system={"loggers": ["wandb"]}), tmp_path)
    loggers.log({"val/top1_percent": 48.5}, epoch=1, step=4)
    loggers.log({"val/top1_percent": 61.25}, epoch=2, step=8)
    assert loggers._open["wandb"]._run.config["batch"]["global_batch_size"] == 16
    loggers.close(None)
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert folder.name.endswith("-former-id")
    (file,) = folder.glob("*.wandb")  # which `wandb sync` sends to the server
    deadline_s = time.monotonic() + 60
    while b"61.25" not in (content := file.read_bytes()) and time.monotonic() < deadline_s:
        time.sleep(0.05)  # another process writes it, also behind the end of a run
    assert b"val/top1_percent" in content
    assert b"optimizer_step" in content
    assert b"61.25" in content
    assert b"48.5" not in content
