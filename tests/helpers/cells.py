"""An experiment on the test cluster: writes its files, calls `shiftbench`, waits, and reads the records."""

import json
import subprocess
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
from tests.cluster.daemons import is_of_ours
from tests.helpers import command_line, stand_in

ROOT = Path(__file__).parents[2]
HOOKS = ROOT / "tests" / "cluster" / "hooks"
# One epoch of 200 steps, which take `step_s` each, so that a test can act in the middle of it.
EXPERIMENT: dict[str, Any] = {
    "model": {"arch": "mlp10"},  # its steps cost a quarter of those of the smallest ResNet
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
TIMEOUT_S = 240.0  # for a busy machine


def wait_until(what: str, is_so: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> Any:
    """Poll until a condition holds, and return its value."""
    deadline = time.monotonic() + timeout_s
    while not (seen := is_so()):
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(0.2)
    return seen


class Cells:
    """An experiment, a cluster and an output folder.

    `trains`: whether its jobs train, with this `loader`, half as many steps; if not, the stand-in trainer
    writes their records.
    """

    def __init__(self, folder: Path, *, trains: bool = False, loader: str = "dali") -> None:
        self.folder, self.trains = folder, trains
        self.output_dir = folder / "runs"
        self.config = folder / "cells.yaml"
        data = {**EXPERIMENT["data"], "loader": loader, **({"train_images": 1600} if trains else {})}
        folder.mkdir(exist_ok=True)
        self.config.write_text(yaml.safe_dump({**EXPERIMENT, "data": data}))
        self.overrides: tuple[str, ...] = ()
        self.describe()

    def describe(
        self,
        *,
        step_s: float = 0.0,
        fail: str | None = None,
        checkpoint_bytes: int | None = None,
        **changes: Any,
    ) -> Path:
        """Write the cluster's file. The first three are read by the hooks or by the stand-in trainer."""
        path = self.folder / "cluster.yaml"
        trainer = HOOKS if self.trains else stand_in.FOLDER
        hooks = {"PYTHONPATH": str(trainer), "SHIFTBENCH_TEST_PACE": str(self.folder / "pace")}
        self.pace(step_s)
        if fail is not None:
            hooks["SHIFTBENCH_TEST_FAIL"] = fail
        if checkpoint_bytes is not None:
            hooks["SHIFTBENCH_TEST_CHECKPOINT_BYTES"] = str(checkpoint_bytes)
        environment = {**hooks, **changes.pop("environment", {})}
        path.write_text(yaml.safe_dump({**CLUSTER, "environment": environment, **changes}))
        return path

    def pace(self, step_s: float) -> None:
        """Set the seconds of each step from now on, also in jobs that run."""
        (self.folder / "pace").write_text(str(step_s))

    # ------------------------------------------------------------ commands

    def call(self, *arguments: str, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
        """Call `shiftbench` on these cells' output folder."""
        variables = {"COLUMNS": "200", **(env or {})}
        return command_line.shiftbench(*arguments, "--output-dir", self.output_dir, **variables)

    def submit(
        self, *overrides: str, expect: int = 0, env: dict[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Submit these cells. `expect`: the exit code."""
        self.overrides = overrides
        file = str(self.folder / "cluster.yaml")
        done = self.call("submit", str(self.config), *overrides, "--cluster", file, env=env)
        assert done.returncode == expect, done.stdout + done.stderr
        return done

    def status(self) -> dict[str, dict[str, Any]]:
        """Return what `shiftbench status` shows of each run, by folder name."""
        done = self.call("status", "--json")
        assert done.returncode == 0, done.stderr
        runs = [json.loads(line) for line in done.stdout.splitlines()]
        return {Path(run["folder"]).name: run for run in runs}

    # ------------------------------------------------------------ looking

    @property
    def runs(self) -> tuple[Run, ...]:
        """The experiment's runs, with the overrides of the last submission."""
        return load_experiment(self.config, self.overrides).runs

    @property
    def run(self) -> Run:
        (run,) = self.runs
        return run

    def paths(self, run: Run | None = None) -> RunPaths:
        return RunPaths(self.output_dir / (run or self.run).folder_name)

    def record(self, run: Run | None = None) -> dict[str, Any]:
        """Return status.json; empty before it exists."""
        path = self.paths(run).status
        content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return content

    def wait_for_step(self, step: int, run: Run | None = None) -> None:
        """Wait for a checkpoint of at least this step."""
        paths = self.paths(run)

        def is_there() -> bool:
            assert self.record(run).get("state") != "failed", self.record(run)
            return any(saved >= step for saved in paths.checkpoint_steps())

        wait_until(f"step {step}", is_there)

    def wait_for_state(self, state: str, run: Run | None = None, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until the record has this state."""
        try:
            wait_until(state, lambda: self.record(run).get("state") == state, timeout_s)
        except AssertionError:
            raise AssertionError(f"not {state}: {self.record(run)}\n{self.logs()}") from None

    def logs(self) -> str:
        """Return the queue and the ends of the jobs' logs, for messages."""
        queue = [slurm("scontrol", "show", "job", row[0], check=False) for row in self.jobs()]
        logs = sorted(self.output_dir.glob(".shiftbench/*/*/*log.*"))
        return "\n".join([*queue, *(f"{path.name}: {path.read_text()[-3000:]}" for path in logs)])

    def jobs(self) -> list[list[str]]:
        """Return this folder's jobs in the queue: id, state, node, name."""
        names = [path.stem for path in self.output_dir.glob(".shiftbench/submissions/*.json")]
        text = slurm("squeue", "-h", "--array", "-o", "%i|%T|%N|%j")
        rows = [line.split("|") for line in text.splitlines()]
        return [row for row in rows if row[3].rpartition("-")[2] in names]

    def job(self) -> str:
        """Return the id of the first job in the queue, after waiting for one."""
        return str(wait_until("the job", lambda: [row[0] for row in self.jobs()])[0])

    def hurry(self, job: str) -> None:
        """Start a requeued job soon, which would wait for two minutes."""
        wait_until(
            "the requeue",
            lambda: slurm("squeue", "-h", "-j", job, "-o", "%T", check=False).strip() == "PENDING",
        )
        # The node refuses a credential of the second in which it revoked the former one; Slurm 22.05 then
        # ends the job: "Killing non-startable batch job: Job credential revoked".
        time.sleep(2)
        wait_until(
            "a start at once",
            lambda: testcluster.is_done("scontrol", "update", f"JobId={job}", "StartTime=now"),
        )

    def clear(self) -> None:
        """Cancel the jobs in the queue and wait for their end, so that the nodes are free."""

        def is_empty() -> bool:
            for row in (jobs := self.jobs()):  # again and again: a job may have been put back meanwhile
                slurm("scancel", "--signal=KILL", "--full", row[0], check=False)
                slurm("scancel", row[0], check=False)
            return not jobs

        wait_until("an empty queue", is_empty)


@contextmanager
def configured(words: str, others: str) -> Iterator[None]:
    """Restart the controller with a changed slurm.conf, and with the former one afterwards."""
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
    not _can_mount(),
    reason="NO MOUNTS: a full disk and other machines are simulated by mount(8), which needs CAP_SYS_ADMIN",
)


def slurm(*command: str, check: bool = True) -> str:
    """Return the output of one of Slurm's commands."""
    return testcluster.run(*command, check=check)


def task_pids() -> list[int]:
    """Return the processes of tasks on this worker's cluster."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command, pid = path.read_bytes(), int(path.parent.name)
            if b"jobs.cluster.start_task" in command and b"srun" not in command and is_of_ours(pid):
                found.append(pid)
        except OSError:
            continue  # it has ended meanwhile
    return found
