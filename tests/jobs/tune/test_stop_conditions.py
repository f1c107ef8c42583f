"""When a study ends before its last trial."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.tune.stop_conditions import ForcedStop, StopConditions
from suite.experiment import Run
from suite.record import RecordWriter
from suite.studies.spec import BudgetSpec
from tests.helpers.runs import make_run

RUNS = tuple(make_run(recipe={"epochs": 6, "lr": lr}) for lr in (0.1, 0.2))


def spend(folder: Path, run: Run, study: str, rank_s: float, state: Any) -> None:
    run = run.model_copy(update={"experiment": study})
    with RecordWriter(run, folder / run.folder_name, durable=False) as record:
        now = time.time()
        record.status(state, started_at=now - rank_s / 2, updated_at=now, world_size=2)


def conditions(folder: Path, **budget: float) -> StopConditions:
    (folder / "studies" / "mine").mkdir(parents=True, exist_ok=True)
    return StopConditions(BudgetSpec(**budget), "mine", folder, lambda: RUNS)


def check_now(one: StopConditions) -> bool:
    one._looked_at = -1e9  # not to wait for the next look
    return one.stop_all()


def test_the_budget_counts_what_this_study_trained(tmp_path: Path) -> None:
    spend(tmp_path, RUNS[0], "mine", 3000.0, "completed")
    spend(tmp_path, RUNS[1], "another", 9000.0, "completed")
    assert not check_now(conditions(tmp_path))
    assert not check_now(conditions(tmp_path, rank_hours=1.0))
    spent = conditions(tmp_path, rank_hours=0.8)
    assert check_now(spent)
    assert spent.spent == "the budget of 0.8 rank-hours is spent"


def test_a_run_that_failed_may_go_on_and_cost_more(tmp_path: Path) -> None:
    one = conditions(tmp_path, rank_hours=1.0)
    spend(tmp_path, RUNS[0], "mine", 3000.0, "failed")
    assert not check_now(one)
    spend(tmp_path, RUNS[0], "mine", 3700.0, "running")
    assert check_now(one)


def test_trials_can_read_why_they_end(tmp_path: Path) -> None:
    spend(tmp_path, RUNS[0], "mine", 3700.0, "queued")
    one = conditions(tmp_path, rank_hours=1.0)
    assert not one.file.exists()
    assert check_now(one)
    assert json.loads(one.file.read_text())["reason"] == (
        "the driver of the study: the budget of 1 rank-hours is spent"
    )
    # A later driver begins without.
    conditions(tmp_path)
    assert not one.file.exists()


def test_a_trial_that_a_cluster_refuses_ends_the_study(tmp_path: Path) -> None:
    one = conditions(tmp_path)
    one.file.write_text('{"refused": "invalid partition specified"}')
    assert check_now(one)
    assert one.refused == "invalid partition specified"
    assert "invalid partition" in json.loads(one.file.read_text())["reason"]


def test_time_is_a_budget_too(tmp_path: Path) -> None:
    one = conditions(tmp_path, wall_hours=1.0)
    assert not check_now(one)
    one._begun_at -= 3601
    assert check_now(one)


@pytest.fixture
def hangups() -> Iterator[None]:
    """SIGHUP as a terminal has it: nohup has these tests ignore it."""
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, former)


@pytest.mark.usefixtures("hangups")
def test_one_signal_ends_it_in_good_order_and_a_second_at_once(tmp_path: Path) -> None:
    one = conditions(tmp_path)
    with one.handling_signals():
        os.kill(os.getpid(), signal.SIGHUP)
        assert one.stop_all()
        os.kill(os.getpid(), signal.SIGINT)  # the first that is urgent
        with pytest.raises(ForcedStop):
            os.kill(os.getpid(), signal.SIGINT)
        assert one.is_forced
        one.is_over = True
        os.kill(os.getpid(), signal.SIGINT)  # nothing interrupts the cleaning up
    assert one.signal is signal.SIGHUP
