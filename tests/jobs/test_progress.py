"""What a launch shows of its runs' status files."""

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from jobs.local import progress
from jobs.local.progress import ProgressView
from suite.config import expand
from suite.experiment import Run
from suite.paths import RunPaths


def a_run() -> Run:
    content = {
        "model": {"arch": "small_resnet11"},
        "data": {"name": "fashion-mnist-7k"},
        "recipe": {"epochs": 3},
    }
    return expand(content, "shown").runs[0]


def test_an_epoch_is_shown_once_with_its_own_accuracy(tmp_path: Path) -> None:
    run = a_run()
    out = io.StringIO()
    view = ProgressView(Console(file=out, width=200))
    view.started(tmp_path, run)
    # A checkpoint of epoch 2 is written before that epoch is evaluated: the accuracy is still the first's.
    for status in (
        {"epoch": 1},
        {"epoch": 1, "evaluated_epoch": 1, "top1_percent": 40.0},
        {"epoch": 2, "evaluated_epoch": 1, "top1_percent": 40.0},
        {"epoch": 2, "evaluated_epoch": 2, "top1_percent": 55.5},
        {"epoch": 2, "evaluated_epoch": 2, "top1_percent": 55.5},
    ):
        RunPaths(tmp_path).status.write_text(json.dumps(status))
        view.update(tmp_path, RunPaths(tmp_path))
    lines = [line for line in out.getvalue().splitlines() if line.startswith("epoch")]
    assert lines == [f"epoch 1/3  {run.label}  top-1 40.0 %", f"epoch 2/3  {run.label}  top-1 55.5 %"]


def status_of(folder: Path, **content: object) -> None:
    folder.mkdir(exist_ok=True)
    RunPaths(folder).status.write_text(json.dumps({"state": "running", **content}))


def test_a_silence_ends_with_a_line_on_each_run_in_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, run = io.StringIO(), a_run()
    view = ProgressView(Console(file=out, width=200))
    monkeypatch.setattr(progress, "SILENCE_S", -1.0)  # every moment is one
    view.waits_for = "Ray"
    view.break_silence()
    assert out.getvalue().startswith("waiting   for Ray (")
    view.started(tmp_path / "a", run, "first")
    view.started(tmp_path / "b", run, "second")
    before = {"updated_at": time.time() - 60, "step": 7, "total_steps": 120}
    status_of(tmp_path / "b", **before)  # of an earlier attempt: its process still imports
    began = time.time() + 1
    now = {"updated_at": began + 10, "started_at": began, "resumed_from_step": 20, "step": 40}
    now |= {"total_steps": 120, "images_per_s": 812.4, "loss": 1.2345, "phase": "probing"}
    status_of(tmp_path / "a", **now)
    view.break_silence()
    view.break_silence()
    # 20 of 100 steps took 10 s, so that the other 80 take 40 s.
    assert out.getvalue().splitlines()[-2:] == [
        "step 40/120  first  probing, loss 1.23, 812 images/s, 40 s left",
        "second  starting (0 s)",
    ]
    monkeypatch.setattr(progress, "SILENCE_S", 60.0)
    view.break_silence()
    assert len(out.getvalue().splitlines()) == 5


def test_bars_fit_into_80_columns_and_show_all_runs_and_each(tmp_path: Path) -> None:
    out, run = io.StringIO(), a_run()
    console = Console(file=out, width=80, height=40)
    view = ProgressView(console)
    view.start(total=4, skipped=1)
    label = "small_resnet20-with-a-long-name XBN-P2-GN8 norm batch 32 seed 5006 lr=0.1"
    view.started(tmp_path / "a", run, label)
    began = time.time() + 1
    status_of(
        *(tmp_path / "a",),
        updated_at=began + 1,
        started_at=began,
        step=100_000,
        total_steps=200_000,
        resumed_from_step=0,
        images_per_s=21_400.0,
        loss=0.012345,
        phase="evaluating",
    )
    with console.capture() as capture:
        console.print(view._bars())
    lines = [line.rstrip() for line in capture.get().splitlines()]
    assert lines[0].startswith("0 of 3 runs")
    assert " 17 %" in lines[0]  # half a run of three
    assert lines[1] == label
    assert lines[2].endswith("50 % evaluating, loss 0.0123, 21,400 images/s, 1 s left")
    assert len(lines) == 3
