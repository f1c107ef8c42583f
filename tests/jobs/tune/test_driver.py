"""The driver with a real Ray: what it answers, and what it leaves behind however it ends."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ray import tune

from jobs import exit_codes
from suite.experiment import Run
from suite.paths import RunPaths
from tests.helpers.command_line import shiftbench
from tests.helpers.desk import BASE, Desk, complete, wait_until_gone, wait_until_released
from tests.helpers.driver import Driver
from tests.helpers.stand_in import stand_in

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def results_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "result.json").read_text().splitlines()]


def test_a_study_that_is_complete_is_read_and_answered(desk: Desk) -> None:
    desk.describe(seeds=[0, 1, 2])
    accuracy = {2: 50.0, 16: 60.0}
    for run in desk.study.runs:
        complete(desk, run, [10.0, 20.0, 30.0, accuracy[run.batch.norm] + 0.1 * run.seed * run.batch.norm])
    # A Ray of the study's own, whatever address others use.
    said = desk.tune(RAY_ADDRESS="127.0.0.1:1")
    assert "6 runs, 6 of them complete already" in said
    assert "started" not in said
    assert "BN loses more than 1 point of top-1 against norm batch 16 below norm batch 16" in said
    answers = json.loads((desk.study_folder / "answers.json").read_text())
    assert answers["runs"] == {"completed": 6}
    (loses,) = (answer for answer in answers["norm_batch"] if answer["kind"] == "bn_loses")
    assert (loses["kind"], loses["norm_batch_size"]) == ("bn_loses", 16)
    by_batch = {row["norm_batch_size"]: row for row in answers["curves"]}
    assert by_batch[2]["top1_percent_mean"] == pytest.approx(50.2)
    assert by_batch[2]["top1_percent_n"] == 3
    # Student's t, two degrees of freedom: 4.302653 × 0.2 / √3 around the mean.
    assert by_batch[2]["top1_percent_high"] - by_batch[2]["top1_percent_mean"] == pytest.approx(
        0.496828, 1e-5
    )
    table = pd.read_parquet(desk.study_folder / "results.parquet")
    assert sorted(table.run_id) == sorted(run.run_id for run in desk.study.runs)
    # Where a user of Tune looks, with each epoch once, and logs for TensorBoard.
    (tune_folder,) = (desk.folder / "ray_results").iterdir()
    for run in desk.study.runs:
        rows = results_of(tune_folder / run.folder_name)
        assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
        assert rows[-1]["state"] == "completed"
        assert list((tune_folder / run.folder_name).glob("events.out.tfevents.*"))
    assert_tune_reads(tune_folder)
    # Everything is complete: neither Ray nor a trial starts again.
    assert "6 of them complete already" in desk.tune_here()
    assert desk.processes() == []
    assert (tune_folder / ".shiftbench-study").exists()


def assert_tune_reads(folder: Path) -> None:
    grid = tune.ResultGrid(tune.ExperimentAnalysis(str(folder)))
    best = grid.get_best_result("top1_percent", "max")
    assert len(grid) == 6
    assert best.config is not None
    assert (best.config["point"], best.config["seed"]) == ({"batch.norm_batch_size": 16}, 2)
    assert best.metrics is not None
    assert best.metrics["top1_percent"] == 63.2


def test_a_driver_that_is_killed_or_stopped_leaves_checkpoints_from_which_its_runs_are_resumed(
    desk: Desk,
) -> None:
    desk.trainer = stand_in(step_s=0.02)
    desk.describe({**BASE, "recipe": {"epochs": 100_000, "lr": 0.02}}, trials={"at_a_time": 2})
    driver = begun(desk, attempt=1)
    driver.kill()
    # Ray's own helpers notice within a minute or two; a run at once.
    reached = left_behind(desk, "")
    assert "--resume continues it" in desk.tune_here(expect=2)
    driver = begun(desk, "--resume", attempt=2)
    assert [desk.record(run).status["resumed_from_step"] for run in desk.study.runs] == reached
    driver.send_to_group(signal.SIGTERM)  # to Ray too, as Slurm does at the end of a job
    assert_stopped(driver, exit_codes.PREEMPTED, "SIGTERM")
    reached = left_behind(desk, "SIGTERM")
    driver = begun(desk, "--resume", attempt=3)
    assert [desk.record(run).status["resumed_from_step"] for run in desk.study.runs] == reached
    for _ in range(2):  # twice, as from a terminal
        driver.send_to_group(signal.SIGINT)
        time.sleep(0.3)
    assert_stopped(driver, 130, "SIGINT")
    left_behind(desk, "")
    wait_until_gone(desk)


def begun(desk: Desk, *arguments: str, attempt: int) -> Driver:
    """Starts a driver, and returns it when all runs have ended an epoch of this attempt."""
    before = {run: desk.epoch(run) for run in desk.study.runs}

    def has_ended_an_epoch(run: Run) -> bool:
        return desk.status(run).content.get("attempts") == attempt and desk.epoch(run) > before[run]

    driver = desk.begin(*arguments)
    desk.wait("an epoch", lambda: all(map(has_ended_an_epoch, before)), driver)
    return driver


def assert_stopped(driver: Driver, code: int, name: str) -> None:
    said = driver.end(code, timeout_s=300)
    assert f"stopped by {name}: --resume continues" in said


def left_behind(desk: Desk, reason: str) -> list[int]:
    """Waits until no run trains, and returns the step that each has reached, with a checkpoint."""
    steps = []
    for run in desk.study.runs:
        wait_until_released(desk, run)
        record = desk.record(run)
        assert record.state == "preempted"
        assert reason in str(record.reason)
        assert RunPaths(desk.output_dir / run.folder_name).checkpoint_steps()[-1] == record.status["step"]
        steps.append(record.status["step"])
    return steps


def test_a_survivor_of_asha_that_was_interrupted_equals_the_same_run_bit_for_bit(
    desk: Desk, fork_server: Path
) -> None:
    """Takes longer than others: it trains with torch, since it compares weights."""
    desk.trainer = {}
    space = {"recipe.lr": {"kind": "grid", "values": [0.02, 1.0e-9]}}  # the second one learns nothing
    base = {**BASE, "model": {"arch": "mlp10"}, "recipe": {"epochs": 12}}
    desk.describe(base, space=space, scheduler={"kind": "asha", "reduction_factor": 2})
    good, bad = desk.study.runs
    driver = desk.begin()
    desk.wait("an epoch", lambda: desk.epoch(good) >= 1, driver)
    driver.send(signal.SIGTERM)  # to the driver alone
    assert_stopped(driver, exit_codes.PREEMPTED, "SIGTERM")
    stopped = desk.record(good)
    assert stopped.state == "preempted"
    assert "by the driver of the study: SIGTERM" in str(stopped.reason)
    wait_until_gone(desk)
    desk.tune("--resume")
    assert desk.record(good).status["attempts"] == 2
    assert desk.record(good).status["resumed_from_step"] == stopped.status["step"]
    assert desk.record(bad).state == "stopped"
    calm = desk.folder / "calm"
    done = shiftbench("run", desk.folder / "base.yaml", "recipe.lr=0.02", "--output-dir", calm)
    assert done.returncode == 0, done.stderr
    assert_same_results(desk.output_dir / good.folder_name, calm / good.folder_name)


def assert_same_results(one: Path, other: Path) -> None:
    """Weights byte for byte, and every measurement that is not of time."""
    import torch

    states = [torch.load(folder / "checkpoints" / "best.pt")["model"] for folder in (one, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
    assert measured(one) == measured(other)


def measured(folder: Path) -> list[str]:
    of_time = ("images_per_s", "time", "share", "memory", "matmul_peak")
    lines = RunPaths(folder).measurements.read_text().splitlines()
    return [line for line in lines if not any(word in json.loads(line)["metric"] for word in of_time)]


def test_asha_ends_trials_early_and_keeps_their_last_weights(desk: Desk) -> None:
    desk.trainer = stand_in(step_s=0.03)  # 0.6 s an epoch
    space = {
        "model.norm.kind": {"kind": "grid", "values": ["bn", "gn"]},
        "recipe.lr": {"kind": "grid", "values": [0.0001, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1]},
    }
    desk.describe(space=space, scheduler={"kind": "asha", "reduction_factor": 2}, trials={"at_a_time": 2})
    said = desk.tune(CUDA_VISIBLE_DEVICES="4,7")  # as where there are GPUs: one for each rank of a trial
    states = {run: desk.record(run).state for run in desk.study.runs}
    logs = [(desk.output_dir / run.folder_name / "log.txt").read_text() for run in states]
    assert {log.partition("CUDA_VISIBLE_DEVICES=")[2].partition("\n")[0] for log in logs} == {"4", "7"}
    stopped = [run for run, state in states.items() if state == "stopped"]
    survivors = [run for run, state in states.items() if state == "completed"]
    assert len(states) == len(stopped) + len(survivors) == 16, said
    assert len(stopped) >= 6  # 9 if all epochs take the same time
    trained = [desk.record(run).status["step"] / 20 for run in stopped]
    assert sum(trained) < len(stopped) * 4 * 0.75  # epochs
    for run in stopped:
        record = desk.record(run)
        epoch = record.status["stopped_after_epoch"]
        assert record.status["stopped_by"] == "asha"
        assert f"by asha after epoch {epoch}: top1_percent" in str(record.reason)
        assert epoch <= record.status["step"] / 20 < epoch + 2
        assert RunPaths(desk.output_dir / run.folder_name).checkpoint_steps()[-1] == record.status["step"]
    saved = json.loads((desk.study_folder / "answers.json").read_text())["cost"]["epochs_saved_by_stopping"]
    assert saved == sum(4 - desk.record(run).status["stopped_after_epoch"] for run in stopped)
    assert f"{len(stopped)} runs stopped early, which saved {saved} of 64 epochs" in said


def test_a_spent_budget_ends_the_study(desk: Desk) -> None:
    desk.trainer = stand_in(step_s=0.05)
    desk.describe({**BASE, "recipe": {"epochs": 100_000, "lr": 0.02}}, budget={"rank_hours": 1.0e-6})
    sentence = "the budget of 1e-06 rank-hours is spent: --resume continues once it is raised"
    assert sentence in desk.tune(expect=exit_codes.PREEMPTED)
    assert desk.processes() == []
    ends = [status for run in desk.study.runs if not (status := desk.status(run)).is_missing]
    assert {status.state for status in ends} == {"preempted"}, ends
    assert any("the budget of 1e-06 rank-hours is spent" in str(status.reason) for status in ends)
    assert sentence in desk.tune_here("--resume", expect=exit_codes.PREEMPTED)
    again = [status for run in desk.study.runs if not (status := desk.status(run)).is_missing]
    assert [one.content["attempts"] for one in again] == [one.content["attempts"] for one in ends]
