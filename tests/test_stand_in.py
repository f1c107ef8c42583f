"""The stand-in trainer has the interface of the real one, and ends as the real one ends."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import Record, RecordWriter, StopRequest, read_status, request_stop
from tests.helpers.runs import make_run
from tests.helpers.stand_in import FOLDER, stand_in


def start(run: Run, folder: Path, **settings: object) -> "subprocess.Popen[bytes]":
    with RecordWriter(run, folder):
        pass
    env = {**os.environ, **stand_in(**settings)}
    return subprocess.Popen([sys.executable, "-m", "jobs.local.worker", str(folder)], env=env)


def test_it_has_the_real_interface() -> None:
    import suite.train

    script = (
        "import inspect, suite.train as t\n"
        "print(t.__file__, [str(inspect.signature(f)) for f in (t.train_run, t.train_on)])"
    )
    env = {**os.environ, **stand_in()}
    said = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    signatures = [str(inspect.signature(f)) for f in (suite.train.train_run, suite.train.train_on)]
    assert said.stdout.strip() == f"{FOLDER / 'train' / '__init__.py'} {signatures}"


def test_it_resumes_after_a_signal_and_measures_the_same(tmp_path: Path) -> None:
    run = make_run()
    process = start(run, tmp_path, step_s=0.2)
    while not read_status(RunPaths(tmp_path)).content.get("step"):
        assert process.poll() is None
    process.terminate()
    assert process.wait() == 75
    step = read_status(RunPaths(tmp_path)).content["step"]
    assert RunPaths(tmp_path).checkpoint_steps() == [step]
    assert start(run, tmp_path).wait() == 0
    record = Record.read(tmp_path)
    assert (record.state, record.status["resumed_from_step"]) == ("completed", step)
    epochs = [m.epoch for m in record.measurements() if (m.metric, m.split) == ("top1_percent", "val")]
    assert epochs == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("lr", "settings", "code", "state"),
    [(1e30, {}, 3, "diverged"), (0.1, {"fail": "0:3"}, 1, "failed"), (0.1, {}, 0, "completed")],
)
def test_it_ends_as_a_real_run(
    lr: float, settings: dict[str, object], code: int, state: str, tmp_path: Path
) -> None:
    run = make_run(recipe={"epochs": 6, "lr": lr})
    assert start(run, tmp_path, **settings).wait() == code
    assert read_status(RunPaths(tmp_path)).state == state


def test_it_obeys_a_stop_request(tmp_path: Path) -> None:
    process = start(make_run(), tmp_path, step_s=0.2)
    while not read_status(RunPaths(tmp_path)).content.get("step"):
        assert process.poll() is None
    request_stop(RunPaths(tmp_path), StopRequest("stopped", "asha after epoch 1", "asha", 1))
    assert process.wait() == 75
    status = read_status(RunPaths(tmp_path))
    assert (status.state, status.content["stopped_by"]) == ("stopped", "asha")
