"""What the tests do on the cluster: write an experiment, call `shiftbench`, wait, look."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from suite.config import load_experiment
from suite.experiment import Run
from suite.paths import RunPaths
from tests.cluster import testcluster

ROOT = Path(__file__).parents[2]
HOOKS = ROOT / "tests" / "cluster" / "hooks"
# 200 steps: with `step_s` as long as a test wants, to be struck in the middle of its only epoch.
EXPERIMENT: dict[str, Any] = {
    "model": {"arch": "small_resnet11"},
    "data": {"name": "fashion-mnist-7k", "image_size": 28, "train_images": 3200, "val_images": 41},
    "batch": {"global_batch_size": 16, "batch_size_per_gpu": 8},
    "recipe": {"epochs": 1, "lr": 0.05, "schedule": "cosine"},
    "measure": {"precise_bn_images": 16, "warmup_steps": 1},
    "system": {
        "torch_threads": 1,
        "data_threads": 1,
        "checkpoint_every_steps": 20,
        "collective_timeout_s": 60,
    },
}
QUICK = ("data.train_images=32", "measure.precise_bn_images=0")
CLUSTER: dict[str, Any] = {
    "scheduler": "slurm",
    "partition": "main",
    "time": "30",
    "cpus_per_task": 1,
    "signal_delay_s": 30,
}
TIMEOUT_S = 240.0  # of a busy machine: nothing here measures time


def wait_until(what: str, is_so: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> Any:
    """Look until there is something to see, and return it."""
    deadline = time.monotonic() + timeout_s
    while not (seen := is_so()):
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(0.2)
    return seen


class Cells:
    """An experiment, a cluster and an output folder, as a researcher has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output_dir = folder / "runs"
        self.config = folder / "cells.yaml"
        self.config.write_text(yaml.safe_dump(EXPERIMENT))
        self.overrides: tuple[str, ...] = ()
        self.describe()

    def describe(self, *, step_s: float = 0.0, fail: str | None = None, **changes: Any) -> Path:
        """Write the cluster's file. `step_s` and `fail` go to the hooks in tests/cluster/hooks."""
        path = self.folder / "cluster.yaml"
        hooks = {"PYTHONPATH": str(HOOKS), "SHIFTBENCH_TEST_PACE": str(self.folder / "pace")}
        self.pace(step_s)
        if fail is not None:
            hooks["SHIFTBENCH_TEST_FAIL"] = fail
        path.write_text(yaml.safe_dump({**CLUSTER, "environment": hooks, **changes}))
        return path

    def pace(self, step_s: float) -> None:
        """So long each step takes from now on, in jobs that run too."""
        (self.folder / "pace").write_text(str(step_s))

    # ------------------------------------------------------------ commands

    def call(self, *arguments: str, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
        """`shiftbench …` on these cells' output folder."""
        command = [sys.executable, "-m", "jobs.cli", *arguments, "--output-dir", str(self.output_dir)]
        environment = {**os.environ, "COLUMNS": "200", **(env or {})}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)

    def submit(
        self, *overrides: str, expect: int = 0, env: dict[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """`shiftbench submit` these cells, by default the whole experiment."""
        self.overrides = overrides
        file = str(self.folder / "cluster.yaml")
        done = self.call("submit", str(self.config), *overrides, "--cluster", file, env=env)
        assert done.returncode == expect, done.stdout + done.stderr
        return done

    def status(self) -> dict[str, dict[str, Any]]:
        """What `shiftbench status` says of each run, by folder name."""
        done = self.call("status", "--json")
        assert done.returncode == 0, done.stderr
        runs = [json.loads(line) for line in done.stdout.splitlines()]
        return {Path(run["folder"]).name: run for run in runs}

    # ------------------------------------------------------------ looking

    @property
    def runs(self) -> tuple[Run, ...]:
        """The experiment's runs as submitted last."""
        return load_experiment(self.config, self.overrides).runs

    @property
    def run(self) -> Run:
        (run,) = self.runs
        return run

    def paths(self, run: Run | None = None) -> RunPaths:
        return RunPaths(self.output_dir / (run or self.run).folder_name)

    def record(self, run: Run | None = None) -> dict[str, Any]:
        """status.json as it stands; empty before there is one."""
        path = self.paths(run).status
        content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return content

    def wait_for_step(self, step: int, run: Run | None = None) -> None:
        """Until a checkpoint of at least this step lies there."""
        paths = self.paths(run)

        def is_there() -> bool:
            assert self.record(run).get("state") != "failed", self.record(run)
            return any(saved >= step for saved in paths.checkpoint_steps())

        wait_until(f"step {step}", is_there)

    def wait_for_state(self, state: str, run: Run | None = None, timeout_s: float = TIMEOUT_S) -> None:
        """Until the record itself says so."""
        try:
            wait_until(state, lambda: self.record(run).get("state") == state, timeout_s)
        except AssertionError:
            raise AssertionError(f"not {state}: {self.record(run)}\n{self.said()}") from None

    def said(self) -> str:
        """All that the jobs' logs hold, for messages."""
        logs = sorted(self.output_dir.glob(".shiftbench/*/*/*log.*"))
        return "\n".join(f"{path.name}: {path.read_text()[-3000:]}" for path in logs)

    def jobs(self) -> list[list[str]]:
        """This folder's jobs in the queue: id, state, node, restarts."""
        names = [path.stem for path in self.output_dir.glob(".shiftbench/submissions/*.json")]
        text = slurm("squeue", "-h", "--array", "-o", "%i|%T|%N|%j")
        rows = [line.split("|") for line in text.splitlines()]
        return [row for row in rows if row[3].rpartition("-")[2] in names]

    def job(self) -> str:
        """The id of the only job in the queue."""
        return str(wait_until("the job", lambda: [row[0] for row in self.jobs()])[0])

    def hurry(self, job: str) -> None:
        """A requeued job waits two minutes: not this one."""
        wait_until(
            "the requeue",
            lambda: slurm("squeue", "-h", "-j", job, "-o", "%T", check=False).strip() == "PENDING",
        )
        wait_until(
            "a start at once",
            lambda: testcluster.is_done("scontrol", "update", f"JobId={job}", "StartTime=now"),
        )

    def clear(self) -> None:
        """Cancel what is left, and wait until it is gone: the next test wants the nodes."""
        for row in self.jobs():
            slurm("scancel", "--signal=KILL", "--full", row[0], check=False)
            slurm("scancel", row[0], check=False)
        wait_until("an empty queue", lambda: not self.jobs(), 90)


@contextmanager
def configured(words: str, others: str) -> Iterator[None]:
    """The controller started anew with other words in slurm.conf, and as before afterwards."""
    before = testcluster.CONF.read_text()
    assert words in before
    try:
        _restart_with(before.replace(words, others))
        yield
    finally:
        _restart_with(before)


def _restart_with(conf: str) -> None:
    testcluster.CONF.write_text(conf)
    testcluster.stop("slurmctld")
    testcluster.up(configure=False)


def _can_mount() -> bool:
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


needs_mounts = pytest.mark.skipif(
    not _can_mount(), reason="NO MOUNTS: a full disk and other machines are made by mount(8): CAP_SYS_ADMIN"
)


def slurm(*command: str, check: bool = True) -> str:
    """One of Slurm's own commands."""
    return testcluster.run(*command, check=check)
