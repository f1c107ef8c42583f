"""Early stopping: decisions by hand, and the same ones by a driver that comes after."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.tune.scheduler import StoppingScheduler
from jobs.tune.study_folder import StudyFolder
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import RecordWriter, read_stop_request
from suite.studies.spec import Asha, MedianStopping, Objective
from tests.helpers.runs import make_run

TOP1 = Objective(metric="top1_percent")
ESM = Objective(metric="esm_sigma")
ASHA = Asha(kind="asha", reduction_factor=2)


def scheduler(
    folder: Path, spec: Any = ASHA, objective: Objective = TOP1, epochs: int = 6
) -> StoppingScheduler:
    return StoppingScheduler(spec, objective, epochs, folder, study_folder(folder))


def study_folder(folder: Path) -> StudyFolder:
    """Of a study that only keeps what was judged."""
    one = StudyFolder(SimpleNamespace(name="mine"), folder)  # type: ignore[arg-type]
    one.folder.mkdir(parents=True, exist_ok=True)
    return one


def ask(one: StoppingScheduler, run: str, epoch: int, value: float, metric: str = "top1_percent") -> str:
    (one.output_dir / run).mkdir(parents=True, exist_ok=True)
    trial = SimpleNamespace(config={"run_id": run, "folder": run})
    return one.on_trial_result(None, trial, {"epoch": epoch, metric: value, "state": "running"})


def test_asha_stops_what_is_below_the_median_of_its_rung(tmp_path: Path) -> None:
    one = scheduler(tmp_path)
    # Rungs at epochs 1, 2 and 4; a run goes on if it is not below the median of those before it.
    assert ask(one, "a", 1, 40.0) == "CONTINUE"
    assert ask(one, "b", 1, 20.0) == "STOP"
    assert ask(one, "c", 1, 35.0) == "CONTINUE"  # the median of 40 and 20 is 30
    assert ask(one, "a", 2, 50.0) == "CONTINUE"
    assert ask(one, "a", 3, 1.0) == "CONTINUE"  # no rung
    assert ask(one, "c", 2, 45.0) == "STOP"
    request = read_stop_request(RunPaths(tmp_path / "c"))
    assert request is not None
    assert (request.state, request.by, request.epoch) == ("stopped", "asha", 2)
    assert request.reason == "asha after epoch 2: top1_percent 45"
    assert read_stop_request(RunPaths(tmp_path / "a")) is None


def test_what_is_to_be_low_is_judged_low(tmp_path: Path) -> None:
    one = scheduler(tmp_path, objective=ESM)
    assert ask(one, "a", 1, 1.0, "esm_sigma") == "CONTINUE"
    assert ask(one, "b", 1, 2.0, "esm_sigma") == "STOP"


def test_the_median_rule(tmp_path: Path) -> None:
    one = scheduler(tmp_path, MedianStopping(kind="median", grace_epochs=1, min_runs=2))
    assert [ask(one, run, 1, value) for run, value in (("a", 50.0), ("b", 40.0))] == ["CONTINUE"] * 2
    assert ask(one, "c", 1, 44.0) == "STOP"  # the median of 50 and 40 is 45
    assert ask(one, "d", 1, 46.0) == "CONTINUE"


def test_no_number_is_the_end_after_the_grace_epochs(tmp_path: Path) -> None:
    one = scheduler(tmp_path, Asha(kind="asha", grace_epochs=2, reduction_factor=2))
    assert ask(one, "a", 1, math.nan) == "CONTINUE"
    assert ask(one, "a", 2, math.nan) == "STOP"
    # It says nothing about the others: the first number of the rung stands alone.
    assert ask(one, "b", 2, 1.0) == "CONTINUE"


def test_a_run_that_does_not_measure_it_is_not_judged(tmp_path: Path) -> None:
    one = scheduler(tmp_path, objective=ESM)
    assert ask(one, "a", 1, 1.0, "esm_sigma") == "CONTINUE"
    assert ask(one, "gn", 1, 50.0, "top1_percent") == "CONTINUE"


def record(run: Run, folder: Path, state: Any, values: list[float]) -> None:
    with RecordWriter(run, folder / run.folder_name, durable=False) as writer:
        for epoch, value in enumerate(values, start=1):
            writer.measure("top1_percent", value, epoch=epoch, step=4 * epoch, split="val")
        writer.status(state)


@pytest.mark.parametrize("spec", [ASHA, MedianStopping(kind="median", min_runs=1)], ids=["asha", "median"])
def test_a_later_driver_judges_as_the_first_one_would_have(tmp_path: Path, spec: Any) -> None:
    runs = [make_run(recipe={"epochs": 6, "lr": 0.1 * (1 + n)}) for n in range(4)]
    curves = {0: [40.0, 50.0, 52.0], 1: [30.0], 2: [42.0, 44.0], 3: [41.0]}
    first = scheduler(tmp_path / "first", spec)
    decisions = {
        (n, e): ask(first, runs[n].run_id, e + 1, value)
        for n in (0, 1, 2)
        for e, value in enumerate(curves[n])
    }
    assert "STOP" in decisions.values()
    for n in (0, 1, 2):
        last = decisions[n, len(curves[n]) - 1]
        record(runs[n], tmp_path / "later", "stopped" if last == "STOP" else "completed", curves[n])
    later = scheduler(tmp_path / "later", spec)
    later.remember(runs)
    for value in (20.0, 41.0, 43.0, 60.0):
        probe = f"{value:g}"
        assert ask(later, probe, 1, value) == ask(first, probe, 1, value)


def test_an_epoch_that_no_driver_has_judged_is_judged_by_the_next(tmp_path: Path) -> None:
    good, bad = (make_run(recipe={"epochs": 6, "lr": lr}) for lr in (0.1, 0.2))
    record(good, tmp_path, "completed", [40.0, 50.0, 60.0, 60.0, 60.0, 60.0])
    record(bad, tmp_path, "preempted", [39.0])  # the driver was killed before it could say a word
    later = scheduler(tmp_path)
    later.remember([bad, good])
    trial = SimpleNamespace(config={"run_id": bad.run_id, "folder": bad.folder_name})
    assert later.on_trial_result(None, trial, {"epoch": 1, "top1_percent": 39.0}) == "STOP"
    # What was judged before is not judged again.
    trial = SimpleNamespace(config={"run_id": good.run_id, "folder": good.folder_name})
    assert later.on_trial_result(None, trial, {"epoch": 1, "top1_percent": 40.0}) == "CONTINUE"


def test_what_a_killed_driver_had_judged_is_not_judged_again(tmp_path: Path) -> None:
    good, bad = (make_run(recipe={"epochs": 6, "lr": lr}) for lr in (0.1, 0.2))
    first = scheduler(tmp_path)
    trial = SimpleNamespace(config={"run_id": bad.run_id, "folder": bad.folder_name})
    (tmp_path / bad.folder_name).mkdir()
    assert first.on_trial_result(None, trial, {"epoch": 1, "top1_percent": 39.0}) == "CONTINUE"
    record(good, tmp_path, "completed", [40.0, 50.0, 60.0, 60.0, 60.0, 60.0])
    record(bad, tmp_path, "preempted", [39.0])
    later = scheduler(tmp_path)
    later.remember([good, bad])
    assert later.on_trial_result(None, trial, {"epoch": 1, "top1_percent": 39.0}) == "CONTINUE"


def test_the_median_rule_goes_on_after_any_order_of_records(tmp_path: Path) -> None:
    runs = [make_run(recipe={"epochs": 4, "lr": 0.1 * (1 + n)}) for n in range(4)]
    for run, value in zip(
        runs, (50.0, 40.0, 45.0, 10.0), strict=True
    ):  # the last one, replayed, is the worst
        record(run, tmp_path, "completed", [value, value, value, value])
    later = scheduler(tmp_path, MedianStopping(kind="median", min_runs=3), epochs=4)
    later.remember(runs)
    assert ask(later, "bad", 1, 30.0) == "STOP"
    assert ask(later, "good", 1, 60.0) == "CONTINUE"
    assert ask(later, "good", 2, 60.0) == "CONTINUE"


def test_a_run_that_another_process_trains_is_not_stopped(tmp_path: Path) -> None:
    one = scheduler(tmp_path)
    assert ask(one, "a", 1, 40.0) == "CONTINUE"
    (tmp_path / "theirs").mkdir()
    trial = SimpleNamespace(config={"run_id": "theirs", "folder": "theirs"})
    result = {"epoch": 1, "top1_percent": 10.0, "state": "running", "is_ours": False}
    assert one.on_trial_result(None, trial, result) == "CONTINUE"
    assert read_stop_request(RunPaths(tmp_path / "theirs")) is None
    # But its result counts: the median of 40 and 10 is 25.
    assert ask(one, "b", 1, 24.0) == "STOP"
