"""The cluster `local`: submitted runs train in the background. A stand-in writes their records."""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from jobs.cluster import local_backend
from jobs.cluster.clusters import BACKENDS, load_cluster
from jobs.cluster.local_backend import start_ticks
from jobs.cluster.submit import submit
from suite.config import load_experiment
from suite.errors import UserError
from tests.helpers.command_line import shiftbench
from tests.helpers.small_experiment import CONFIG
from tests.helpers.stand_in import stand_in

SEEDS = ("batch.norm_batch_size=8", "seeds=[0, 1]")


class Here:
    """An output folder and an experiment whose steps take 0.02 s."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tiny.yaml").write_text(CONFIG)

    def call(self, *arguments: str) -> CompletedProcess[str]:
        return shiftbench(*arguments, "--output-dir", self.folder / "runs", **stand_in(step_s=0.02))

    def submit(self, *overrides: str) -> str:
        done = self.call("submit", str(self.folder / "tiny.yaml"), *SEEDS, *overrides)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def runs(self) -> list[dict[str, Any]]:
        done = self.call("status", "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def wait_for(self, *states: str) -> list[dict[str, Any]]:
        deadline = time.monotonic() + 200
        while True:
            runs = self.runs()
            if sorted(run["state"] for run in runs) == sorted(states):
                return runs
            assert time.monotonic() < deadline, runs
            time.sleep(0.1)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    one = Here(tmp_path)
    yield one
    one.call("cancel", "--all")


def test_runs_complete_in_the_background(here: Here) -> None:
    assert "2 submitted" in here.submit()
    assert "0 submitted, 2 queued already" in here.submit()
    here.wait_for("completed", "completed")
    assert "0 submitted, 2 complete" in here.submit()
    run_id = here.runs()[0]["run_id"]
    logs = here.call("logs", run_id).stdout
    assert "top-1" in logs
    deadline = time.monotonic() + 60
    while "2 completed" not in logs:  # the launcher prints this after its last run has ended
        assert time.monotonic() < deadline, logs
        time.sleep(0.1)
        logs = here.call("logs", run_id).stdout


def test_cancel_and_retry(here: Here) -> None:
    here.submit("recipe.epochs=200")
    here.wait_for("running", "queued")
    running = next(run for run in here.runs() if run["state"] == "running")
    refused = here.call("cancel", running["run_id"])
    assert refused.returncode == 2
    assert "1 other run of the same local submission would end too" in refused.stderr
    assert "2 runs cancelled" in here.call("cancel", "--all").stdout
    runs = here.wait_for("cancelled", "cancelled")
    assert {run["reason"].split(" ")[0] for run in runs} == {"stopped", "cancelled"}
    assert "2 submitted" in here.call("retry", "--failed").stdout
    here.wait_for("running", "queued")
    here.call("cancel", "--all")
    here.wait_for("cancelled", "cancelled")


def test_unknown_folders_and_runs_are_refused(here: Here) -> None:
    for arguments in (["status"], ["cancel", "--all"], ["retry", "--failed"], ["logs", "abcd"]):
        done = here.call(*arguments)
        assert done.returncode == 2, arguments
        assert "no such folder; expected one that holds runs" in done.stderr
    (here.folder / "runs").mkdir()
    assert here.call("status").stdout.startswith("0 runs")
    assert "no run 'abcd' here" in here.call("logs", "abcd").stderr
    assert "name runs, or use --failed" in here.call("retry").stderr
    assert "name runs, or use --all" in here.call("cancel").stderr


def test_a_launcher_that_cannot_begin_says_so_in_the_records(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = f"{os.getpid()}@{start_ticks(os.getpid())}"
    monkeypatch.setattr(BACKENDS["local"], "submit", lambda *_: me)
    runs = load_experiment(here.folder / "tiny.yaml", SEEDS).runs
    done = submit(runs, load_cluster("local"), here.folder / "runs", "tiny")
    monkeypatch.undo()

    def too_few(*_: object) -> None:
        raise UserError("2 jobs × 1 ranks need 2 GPUs, but there is 1")

    monkeypatch.setattr("jobs.local.launcher.run_all", too_few)
    monkeypatch.setattr(sys, "argv", ["", str(here.folder / "runs"), done.jobs[0].token])
    with pytest.raises(UserError, match="need 2 GPUs"):
        local_backend.main()
    assert {(run["state"], run["reason"]) for run in here.runs()} == {
        ("failed", "2 jobs × 1 ranks need 2 GPUs, but there is 1")
    }


def test_batches_that_do_not_fit_the_ranks_are_refused(here: Here, tmp_path: Path) -> None:
    cluster = tmp_path / "c.yaml"
    cluster.write_text("scheduler: local\nntasks_per_node: 3\n")
    done = here.call("submit", str(here.folder / "tiny.yaml"), *SEEDS, "--cluster", str(cluster))
    assert done.returncode == 2
    assert "3 ranks × batch_size_per_gpu 8 = 24 samples a pass" in done.stderr
    assert not (here.folder / "runs").exists()


def test_a_later_submission_waits_for_an_earlier_one(here: Here) -> None:
    """One run at a time, as the cluster's file says, also over two commands."""
    here.submit("recipe.epochs=200", "seeds=[0]")
    here.wait_for("running")
    assert "1 submitted" in here.submit("recipe.epochs=1", "seeds=[1]")
    time.sleep(2)
    assert sorted(run["state"] for run in here.runs()) == ["queued", "running"]
    running = next(run for run in here.runs() if run["state"] == "running")
    assert "1 run cancelled" in here.call("cancel", running["run_id"]).stdout
    here.wait_for("cancelled", "completed")
