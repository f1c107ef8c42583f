"""Ranks that are killed, hang or raise, and single tasks of arrays."""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.helpers.cells import Cells, slurm, task_pids, wait_until

pytestmark = pytest.mark.timeout(900)


def test_one_task_of_an_array_is_requeued_and_the_others_are_not(cells: Cells) -> None:
    """One task has the array's own id: a requeue by that id would start every task again."""
    cells.describe(step_s=0.1)
    cells.submit("data.train_images=1600", "seeds=[0, 1, 2]")
    first, second, last = cells.runs
    for run in cells.runs:
        cells.wait_for_step(20, run)
    array = cells.job().partition("_")[0]
    slurm("scancel", f"{array}_1")
    wait_until("the end of the second", lambda: cells.record(second).get("state") == "preempted")
    slurm("scancel", "--signal=USR2", f"{array}_2")
    wait_until("the warning", lambda: "by SIGUSR2" in (cells.record(last).get("reason") or ""))
    cells.hurry(f"{array}_2")
    for run in (first, last):
        cells.wait_for_state("completed", run)
    wait_until("the end", lambda: not cells.jobs())
    assert [cells.record(run)["attempts"] for run in (first, second, last)] == [1, 1, 2]
    assert cells.status()[second.folder_name]["state"] == "cancelled"


def test_one_killed_rank_ends_the_job(training_cells: Cells) -> None:
    cells = training_cells
    cells.describe(nodes=2, step_s=0.1)
    cells.submit("system.collective_timeout_s=600")
    cells.wait_for_step(20)
    victims = [pid for pid in task_pids() if b"SLURM_PROCID=1" in environment_of(pid)]
    assert len(victims) == 1
    os.kill(victims[0], signal.SIGKILL)
    wait_until("the end", lambda: not cells.jobs())  # long before the time-out of collectives
    (seen,) = cells.status().values()
    assert seen["state"] == "failed"
    assert "was lost" in seen["reason"] or "Killed" in seen["reason"], seen


def test_a_rank_that_hangs_is_ended_by_the_time_out(training_cells: Cells) -> None:
    cells = training_cells
    cells.describe(nodes=2, step_s=0.1)
    cells.submit("system.collective_timeout_s=10")
    cells.wait_for_step(20)
    (victim,) = [pid for pid in task_pids() if b"SLURM_PROCID=1" in environment_of(pid)]
    os.kill(victim, signal.SIGSTOP)
    try:
        wait_until("the end", lambda: cells.record().get("state") == "failed")
    finally:
        os.kill(victim, signal.SIGKILL)
    wait_until("an empty queue", lambda: not cells.jobs())
    (seen,) = cells.status().values()
    assert "imed out" in seen["reason"], seen
    assert seen["reason"].startswith("rank 1 on n2 hangs, or is slower than the others by more than"), seen
    assert "it left no word: it was stopped or lost" in seen["reason"], seen
    assert re.search(r"others were at epoch 1, step \d+, training; rank 0 on n1 waited in", seen["reason"]), (
        seen
    )
    assert "rank 0 on n1 has not gone on for " in cells.call("status", seen["run_id"]).stdout


def test_the_traceback_of_a_rank_that_raises_is_shown(cells: Cells) -> None:
    cells.describe(nodes=2, step_s=0.05, fail="1:30")
    cells.submit()
    wait_until("the job", lambda: cells.jobs())
    wait_until("the end", lambda: not cells.jobs())
    (seen,) = cells.status().values()
    assert seen["state"] == "failed"
    assert seen["reason"] == "rank 1 on n2: ValueError: planted on this rank"
    shown = cells.call("status", seen["run_id"]).stdout
    assert "Traceback (most recent call last)" in shown
    assert 'raise ValueError("planted on this rank")' in shown
    assert "planted on this rank" in cells.call("logs", seen["run_id"], "--rank", "1").stdout


def environment_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
