"""When a study ends before its last trial."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.tune.halt import Halt, Hurried, Spending
from jobs.tune.spec import BudgetSpec
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import RecordWriter, read_request
from tests.jobs.tune.test_results import make_run

RUNS = tuple(make_run(recipe={"epochs": 6, "lr": lr}) for lr in (0.1, 0.2))


def spend(folder: Path, run: Run, study: str, rank_s: float, state: Any) -> None:
    run = run.model_copy(update={"experiment": study})
    with RecordWriter(run, folder / run.folder_name, durable=False) as record:
        now = time.time()
        record.status(state, started_at=now - rank_s / 2, updated_at=now, world_size=2)


def halt(folder: Path, **budget: float) -> Halt:
    return Halt(BudgetSpec(**budget), Spending("mine", folder, lambda: RUNS))


def look(one: Halt) -> bool:
    one._looked_at = -1e9  # not to wait for the next look
    return one.stop_all()


def test_the_budget_counts_what_this_study_trained(tmp_path: Path) -> None:
    spend(tmp_path, RUNS[0], "mine", 3000.0, "completed")
    spend(tmp_path, RUNS[1], "another", 9000.0, "completed")
    assert not look(halt(tmp_path))
    assert not look(halt(tmp_path, rank_hours=1.0))
    spent = halt(tmp_path, rank_hours=0.8)
    assert look(spent)
    assert spent.spent == "the budget of 0.8 rank-hours is spent"


def test_runs_under_way_are_told_and_no_others(tmp_path: Path) -> None:
    running, done = (tmp_path / run.folder_name for run in RUNS)
    spend(tmp_path, RUNS[0], "mine", 3000.0, "queued")
    spend(tmp_path, RUNS[1], "mine", 3000.0, "completed")
    one = halt(tmp_path, rank_hours=1.0)
    one.under_way = {"a": running, "b": done, "c": tmp_path / "not-there-yet"}
    assert look(one)
    request = read_request(RunPaths(running))
    assert request is not None
    assert (request.state, request.by) == ("preempted", "study")
    assert "budget of 1 rank-hours" in request.reason
    assert read_request(RunPaths(done)) is None


def test_time_is_a_budget_too(tmp_path: Path) -> None:
    one = halt(tmp_path, wall_hours=1.0)
    assert not look(one)
    one._begun_at -= 3601
    assert look(one)


def test_one_signal_ends_it_in_good_order_and_a_second_at_once(tmp_path: Path) -> None:
    one = halt(tmp_path)
    with one.hearing_signals():
        os.kill(os.getpid(), signal.SIGHUP)
        assert one.stop_all()
        os.kill(os.getpid(), signal.SIGINT)  # the first that is urgent
        with pytest.raises(Hurried):
            os.kill(os.getpid(), signal.SIGINT)
        assert one.in_haste
        one.is_over = True
        os.kill(os.getpid(), signal.SIGINT)  # nothing interrupts the cleaning up
    assert one.signal is signal.SIGHUP
