"""Copies of measurements for other tools: what TensorBoard reads back, and what a tool's failure does."""

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jobs.checks import check_loggers
from suite.errors import UserError
from suite.record import Layer, Record, RecordWriter
from suite.specs.process import LOGGERS, LoggerEntry
from suite.train.distributed import Ranks
from suite.train.loggers import Loggers
from suite.train.metric_logger import MetricLogger
from tests.helpers.runs import make_run

CPU = torch.device("cpu")


class Tool:
    """A tool that keeps what it gets, and fails at step 3."""

    made: list["Tool"] = []  # noqa: RUF012

    def __init__(self, run: object, folder: Path, former: str | None) -> None:
        self.values: list[tuple[Mapping[str, float], int]] = []
        self.former, self.id = former, former or f"copy {len(Tool.made)}"
        self.is_closed = False
        Tool.made.append(self)

    def log(self, values: Mapping[str, float], step: int) -> None:
        if step == 3:
            raise ConnectionError("its server is down")
        self.values.append((values, step))

    def close(self, error: BaseException | None) -> None:
        self.is_closed = True


def test_tensorboard_reads_what_the_record_has(tmp_path: Path) -> None:
    run = make_run(system={"loggers": ["tensorboard"]})
    with RecordWriter(run, tmp_path / "run") as record:
        record.start({})
        metrics = MetricLogger(Ranks(0, 0, 1, CPU), record)
        metrics.loggers = Loggers(run, record.paths.folder)
        metrics.measure("top1_percent", 48.5, "val", epoch=1, step=4)
        metrics.measure("top1_percent", 61.25, "val", epoch=2, step=8)
        layers = [Layer("bn1", 16), Layer("layer1.0.bn1", 16)]
        metrics._per_layer(layers, {"esm_sigma_scaled": [0.25, 0.75]}, "val", epoch=2, step=8)
        metrics.end(None, None, None)
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()

    def read(name: str) -> list[tuple[int, float]]:
        return [(one.step, one.value) for one in found.Scalars(name)]

    assert read("val/top1_percent") == [(4, 48.5), (8, 61.25)]
    assert read("val/esm_sigma_scaled") == [(8, 0.5)]
    assert read("val/esm_sigma_scaled/layer1.0.bn1") == [(8, 0.75)]
    assert Record.read(tmp_path / "run").last("top1_percent") == 61.25


def test_a_tool_that_fails_is_left_out_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("tensorboard", "wandb"):
        entry = LoggerEntry("a tool", f"{__name__}:Tool" if name == "wandb" else LOGGERS[name].logger, name)
        monkeypatch.setitem(LOGGERS, name, entry)
    monkeypatch.setattr("suite.train.loggers.resolve", lambda reference: Tool)
    monkeypatch.setattr(Tool, "made", [])
    loggers = Loggers(make_run(system={"loggers": ["wandb", "tensorboard"]}), tmp_path)
    first, second = Tool.made
    with caplog.at_level(logging.ERROR):
        for step in (2, 3, 4):
            loggers.log({"val/top1_percent": 1.0}, epoch=1, step=step)
    loggers.close(None)
    assert [step for _, step in first.values] == [2]
    assert caplog.text.count("gets no more values: ConnectionError: its server is down") == 2
    assert not first.is_closed
    assert not second.is_closed


def test_a_run_that_resumes_gives_each_value_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tool, "made", [])
    monkeypatch.setattr("suite.train.loggers.resolve", lambda reference: Tool)
    run, file = make_run(system={"loggers": ["wandb"]}), tmp_path / "loggers.json"

    def attempt(*measured: tuple[str, int]) -> None:
        loggers = Loggers(run, tmp_path)
        for name, step in measured:
            loggers.log({name: step / 2, f"{name}/bn1": 0.5}, epoch=step // 4, step=step)

    attempt(("train/loss", 4), ("val/loss", 4), ("train/loss", 8), ("val/loss", 8), ("train/loss", 12))
    attempt(("train/loss", 8), ("val/loss", 8), ("train/loss", 12), ("val/loss", 12))  # from step 4 on
    attempt(
        ("val/loss", 12),
    )  # killed before that was noted as the checkpoint's
    first, second, third = Tool.made
    assert [(values, step) for values, step in first.values if "epoch" in values] == [
        ({"train/loss": step / 2, "train/loss/bn1": 0.5, "epoch": step // 4}, step) for step in (4, 8, 12)
    ]
    assert second.values == [({"val/loss": 6.0, "val/loss/bn1": 0.5}, 12)]
    assert third.values == []
    assert [tool.former for tool in Tool.made] == [None, "copy 0", "copy 0"]
    file.write_text('{"wandb": 3}')
    with pytest.raises(UserError, match=r"loggers.json: not as shiftbench writes it; delete it"):
        attempt()
    file.unlink()
    attempt(("val/loss", 4))
    assert len(Tool.made[-1].values) == 1


def test_loggers_are_off_and_change_no_run_id() -> None:
    assert make_run().system.loggers == ()
    assert make_run().run_id == make_run(system={"loggers": ["tensorboard"]}).run_id


def test_a_tool_that_is_not_installed_is_refused_before_a_run_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        LOGGERS, "wandb", LoggerEntry("x", "suite.train.tool_loggers:WandbLogger", "no_such_package")
    )
    run = make_run(system={"loggers": ["wandb"]})
    with pytest.raises(
        UserError, match=r"system.loggers: wandb is not installed: pip install 'shiftbench\[log"
    ):
        check_loggers([run])
    with pytest.raises(UserError, match=r"system.loggers.0: expected tensorboard, wandb or mlflow"):
        make_run(system={"loggers": ["tensorbord"]})
