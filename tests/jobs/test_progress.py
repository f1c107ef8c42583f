"""What a launch shows of its runs' status files."""

import io
import json
from pathlib import Path

from rich.console import Console

from jobs.local.progress import ProgressView
from suite.config import expand
from suite.paths import RunPaths


def test_an_epoch_is_shown_once_with_its_own_accuracy(tmp_path: Path) -> None:
    content = {
        "model": {"arch": "small_resnet11"},
        "data": {"name": "fashion-mnist-7k"},
        "recipe": {"epochs": 3},
    }
    run = expand(content, "shown").runs[0]
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
