"""Checkpoints are written by a thread, from a copy: what is written is what training was then."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from suite.paths import RunPaths
from suite.train import checkpoint
from suite.train.checkpoint import CheckpointStore, CheckpointWriter
from tests.helpers.bit_equal import assert_bit_equal


@pytest.fixture
def writer(tmp_path: Path) -> CheckpointWriter:
    return CheckpointWriter(CheckpointStore(RunPaths(tmp_path)), torch.device("cpu"))


class Held:
    """Writing that goes on when the test lets it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.may_write, self._write = threading.Event(), checkpoint._save_atomically
        patch.setattr(checkpoint, "_save_atomically", self)

    def __call__(self, *arguments: Any) -> None:
        assert self.may_write.wait(30)
        self._write(*arguments)


def test_training_goes_on_while_a_copy_is_written(
    writer: CheckpointWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, durations = Held(monkeypatch), list[float]()
    model = torch.nn.Conv2d(2, 3, 1).to(memory_format=torch.channels_last)
    state = {"model": model.state_dict(), "lists": [torch.arange(3), {"a": torch.ones(2)}], "step": 4}
    writer.save(4, state, durations.append)
    expected = torch.load(_saved(state, tmp_path / "expected.pt"), weights_only=True)
    with torch.no_grad():
        model.weight.add_(1)
        state["lists"][1]["a"].zero_()
    assert (RunPaths(tmp_path).checkpoint_steps(), durations) == ([], [])
    held.may_write.set()
    writer.wait()
    found = CheckpointStore(RunPaths(tmp_path)).newest()[0]
    assert_bit_equal(found, expected)
    assert found["model"]._metadata == expected["model"]._metadata
    assert len(durations) == 1
    writer.close()


def _saved(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


def test_a_failure_is_raised_by_the_next_call(
    writer: CheckpointWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_atomically", full)
    writer.save(4, {"step": 4}, lambda _: None)
    with pytest.raises(OSError, match="No space"):
        writer.save_best({"epoch": 1})
    writer.save(8, {"step": 8}, lambda _: None)
    with pytest.raises(OSError, match="No space"):
        writer.wait()
    writer.close()


def test_one_copy_at_a_time(
    writer: CheckpointWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    writer.save(4, {"step": 4}, lambda _: None)
    threading.Timer(0.2, held.may_write.set).start()
    writer.save(8, {"step": 8}, lambda _: None)
    assert RunPaths(tmp_path).checkpoint_steps()[0] == 4  # the first was waited for
    writer.close()
    assert RunPaths(tmp_path).checkpoint_steps() == [4, 8]
