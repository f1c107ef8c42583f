"""A study, an output folder and a home of its own, as a researcher has them."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import yaml

from suite.experiment import Run
from suite.files import is_locked
from suite.paths import RunPaths
from suite.record import Record, RecordWriter, Status, read_status
from suite.studies.study import Study, load_study
from tests.helpers.command_line import shiftbench
from tests.helpers.driver import Driver
from tests.helpers.stand_in import stand_in

ROOT = Path(__file__).parents[2]
BASE: dict[str, Any] = {
    "model": {"arch": "small_resnet11"},
    "data": {"name": "fashion-mnist-7k", "image_size": 28, "train_images": 320, "val_images": 41},
    "batch": {"global_batch_size": 16},
    "recipe": {"epochs": 4, "lr": 0.02},
    "measure": {"precise_bn_images": 0, "warmup_steps": 1},
    "system": {"data_threads": 1, "torch_threads": 1},
}
NORM_BATCH = {"batch.norm_batch_size": {"kind": "grid", "values": [2, 16]}}


class Desk:
    """A study and its driver. Runs are trained by the stand-in trainer, unless a test sets `trainer = {}`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trainer: dict[str, str] = stand_in()
        self.output_dir = folder / "runs"
        self.file = folder / "mine.yaml"
        self.describe()

    def describe(self, base: dict[str, Any] | None = None, **keys: Any) -> None:
        (self.folder / "base.yaml").write_text(yaml.safe_dump(base or BASE))
        content = {"experiment": "base.yaml", "space": NORM_BATCH, "seeds": [0], "trials": {"at_a_time": 1}}
        self.file.write_text(yaml.safe_dump(content | keys, sort_keys=False))

    @property
    def study(self) -> Study:
        return load_study(self.file)

    @property
    def study_folder(self) -> Path:
        return self.output_dir / "studies" / "mine"

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables of a driver and of all that it starts."""
        return {"HOME": str(self.folder), "COLUMNS": "200", **self.trainer}

    def begin(self, *arguments: str, **env: str) -> Driver:
        """Starts a driver: a fork, or a fresh process where runs are really trained."""
        environment = {**os.environ, **self.variables, **env}
        command = (self.file, *arguments, "--output-dir", self.output_dir)
        return Driver(*command, environment=environment, folder=self.folder, is_fresh=not self.trainer)

    def tune(self, *arguments: str, expect: int = 0, **env: str) -> str:
        """Runs a driver to its end. Returns what it printed."""
        return self.begin(*arguments, **env).end(expect)

    def tune_here(self, *arguments: str, expect: int = 0) -> str:
        """Runs a driver that starts no Ray, in this process, which saves its imports."""
        command = ("tune", self.file, *arguments, "--output-dir", self.output_dir)
        with mock.patch("ray.init", side_effect=AssertionError("Ray was started")):
            done = shiftbench(*command, **self.variables)
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    def record(self, run: Run) -> Record:
        return Record.read(self.output_dir / run.folder_name)

    def status(self, run: Run) -> Status:
        return read_status(RunPaths(self.output_dir / run.folder_name))

    def wait(self, what: str, is_so: Callable[[], Any], driver: Driver) -> None:
        deadline = time.monotonic() + 400
        while not is_so():
            assert driver.is_running(), driver.said()
            assert time.monotonic() < deadline, f"waited for {what}"
            time.sleep(0.1)

    def epoch(self, run: Run) -> int:
        return int(self.status(run).content.get("evaluated_epoch", 0))

    def processes(self) -> list[psutil.Process]:
        """The processes that work for this desk."""
        every = psutil.process_iter(["cmdline", "environ"])  # None for processes of other users
        return [one for one in every if (one.info["environ"] or {}).get("HOME") == str(self.folder)]


def wait_until_released(desk: Desk, run: Run) -> None:
    """Waits until no process trains a run."""
    deadline = time.monotonic() + 60
    while is_locked(RunPaths(desk.output_dir / run.folder_name).lock):
        assert time.monotonic() < deadline, "still training"
        time.sleep(0.1)


def complete(desk: Desk, run: Run, top1_percent: list[float]) -> None:
    """A record as a completed run leaves it."""
    with RecordWriter(run, desk.output_dir / run.folder_name, durable=False) as record:
        for epoch, value in enumerate(top1_percent, start=1):
            record.measure("top1_percent", value, epoch=epoch, step=20 * epoch, split="val")
        record.status("completed")


def wait_until_gone(desk: Desk) -> None:
    deadline = time.monotonic() + 60
    while left := desk.processes():
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
