"""Studies whose trials are jobs of a real Slurm: drivers end, and find their jobs again or end them."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from jobs.cluster.slurm_commands import accounting
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import Record
from suite.studies.study import load_study
from tests.helpers.cells import Cells, slurm, wait_until
from tests.helpers.driver import Driver
from tests.helpers.shared_ray import SharedRay, shared_ray
from tests.helpers.stand_in import stand_in

pytestmark = pytest.mark.timeout(900)

# 20 steps an epoch.
OVERRIDES = ["data.train_images=320", "measure.precise_bn_images=0", "recipe.epochs=4"]


class Tuning:
    """A study on the cells' cluster."""

    def __init__(self, cells: Cells, ray: SharedRay) -> None:
        self.cells, self.ray = cells, ray
        self.file = cells.folder / "study.yaml"

    def describe(self, **keys: Any) -> None:
        content = {
            "experiment": "cells.yaml",
            "overrides": OVERRIDES,
            "space": {"recipe.lr": {"kind": "grid", "values": [0.05, 0.1]}},
            "seeds": [0, 1],
            "trials": {"cluster": str(self.cells.folder / "cluster.yaml"), "at_a_time": 2},
        }
        self.file.write_text(yaml.safe_dump(content | keys))

    @property
    def runs(self) -> tuple[Run, ...]:
        return load_study(self.file).runs

    def record(self, run: Run) -> Record:
        return Record.read(self.cells.output_dir / run.folder_name)

    def begin(self, *arguments: str, has_own_ray: bool = False, **env: str) -> Driver:
        """Starts a driver, which joins the Ray of these tests unless it `has_own_ray`."""
        folder, output_dir = self.cells.folder, self.cells.output_dir
        address = () if has_own_ray else ("--ray-address", self.ray.address)
        variables = {} if has_own_ray else self.ray.variables
        environment = {**os.environ, **stand_in(), "HOME": str(folder), "COLUMNS": "200", **variables, **env}
        command = (self.file, *arguments, *address, "--output-dir", output_dir)
        return Driver(*command, environment=environment, folder=folder)

    def end(self, driver: Driver, expect: int = 0) -> str:
        try:
            return driver.end(expect)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.cells.logs()}") from None

    def wait(self, driver: Driver, what: str, is_so: Callable[[], Any]) -> Any:
        """Wait, and say what the driver said if it ends before, or if the time is over."""

        def is_so_or_over() -> Any:
            found = is_so()
            assert found or driver.is_running(), f"the driver has ended; waited for {what}"
            return found

        try:
            return wait_until(what, is_so_or_over)
        except AssertionError as error:
            nodes = slurm("sinfo", "-N", "-o", "%N %T %E", check=False)
            raise AssertionError(f"{error}\n{driver.said()}\n{nodes}\n{self.cells.logs()}") from None

    def step(self, run: Run) -> int:
        return int(self.cells.record(run).get("step", 0))


@pytest.fixture(scope="module")
def ray(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedRay]:
    with shared_ray(tmp_path_factory.mktemp("ray")) as ray:
        yield ray


@pytest.fixture
def tuning(cells: Cells, ray: SharedRay) -> Iterator[Tuning]:
    yield Tuning(cells, ray)
    ray.wait_until_unused()


def test_a_driver_killed_in_the_middle_finds_its_jobs_again(tuning: Tuning) -> None:
    """The trainers are not touched: each job ends with its first start, whatever happens to the driver."""
    cells = tuning.cells
    # A job takes a while to leave after its record has ended.
    cells.describe(step_s=0.2, setup=["trap 'sleep 4' EXIT"])
    tuning.describe()
    first, second, *others = tuning.runs
    driver = tuning.begin(has_own_ray=True)  # which ends with it
    tuning.wait(driver, "steps of two jobs", lambda: min(map(tuning.step, (first, second))) > 0)
    assert len(cells.jobs()) == 2  # two at a time
    jobs = {row[0] for row in cells.jobs()}
    driver.kill()
    at_kill = tuning.step(first)
    cells.pace(0.0)
    said = tuning.end(tuning.begin("--resume"))
    assert "4 of 4 runs completed" in said
    assert cells.jobs() == []
    ids = [str(tuning.record(run).status["job"]) for run in tuning.runs]
    states = wait_until("accounting", lambda: ended(ids), 60)
    assert states == ["COMPLETED"] * 4
    for run in (first, second):
        status = tuning.record(run).status
        assert status["attempts"] == 1  # trained on without a second start
        assert status["job"] in jobs
        assert status["step"] > at_kill
    for run in others:
        assert tuning.record(run).status["attempts"] == 1


def ended(ids: list[str]) -> list[str]:
    """Accounting's states of these jobs once all have ended; else nothing."""
    found = [job for job in accounting(ids).values() if not job.is_active]
    return [job.state for job in found] if len(found) == len(ids) else []


def test_a_stopped_trials_job_ends_within_seconds(tuning: Tuning) -> None:
    cells = tuning.cells
    cells.describe()
    space = {"recipe.lr": {"kind": "grid", "values": [0.05, 1.0e-9]}}  # the second one learns nothing
    trials = {"cluster": str(cells.folder / "cluster.yaml"), "at_a_time": 1}
    keys = {"scheduler": {"kind": "asha", "reduction_factor": 2}, "seeds": [0], "trials": trials}
    tuning.describe(space=space, overrides=[*OVERRIDES, "recipe.epochs=9"], **keys)
    good, bad = tuning.runs
    driver = tuning.begin()
    tuning.wait(driver, "the first one's end", lambda: cells.record(good).get("state") == "completed")
    cells.pace(0.2)
    tuning.wait(driver, "a decision", lambda: RunPaths(cells.output_dir / bad.folder_name).stop.exists())
    job = cells.record(bad)["job"]
    wait_until("a free node", lambda: job not in {row[0] for row in cells.jobs()}, timeout_s=30)
    assert "1 run stopped early" in tuning.end(driver)
    status = tuning.record(bad).status
    assert (status["state"], status["stopped_by"]) == ("stopped", "asha")
    assert status["step"] < 20 * (status["stopped_after_epoch"] + 3)


def test_two_interrupts_leave_no_job_and_orphans_are_cancelled(tuning: Tuning) -> None:
    cells = tuning.cells
    cells.describe(step_s=0.1)
    tuning.describe(space={"recipe.lr": {"kind": "grid", "values": [0.1]}})
    wanted, orphan = tuning.runs
    driver = tuning.begin(has_own_ray=True)  # which receives them too
    tuning.wait(driver, "steps", lambda: min(tuning.step(wanted), tuning.step(orphan)) > 0)
    driver.send_to_group(signal.SIGINT)
    time.sleep(0.5)
    driver.send_to_group(signal.SIGINT)
    said = tuning.end(driver, expect=130)
    assert cells.jobs() == [], said
    assert {tuning.record(run).state for run in (wanted, orphan)} == {"preempted"}

    driver = tuning.begin("--resume")
    tuning.wait(driver, "both", lambda: {tuning.record(run).state for run in (wanted, orphan)} == {"running"})
    cells.pace(2.0)  # so that the orphan is still there when a later driver looks
    driver.kill()
    assert len(cells.jobs()) == 2
    refused = tuning.end(tuning.begin("seeds=[0]", "--resume"), expect=2)
    assert "the study has changed since it began: seeds: [0, 1] → [0]" in refused
    driver = tuning.begin("seeds=[0]", "--resume", "--accept")
    wait_until("the orphan's end", lambda: tuning.record(orphan).state in ("preempted", "cancelled"))
    cells.pace(0.0)
    assert "1 of 1 run completed" in tuning.end(driver)
    assert cells.jobs() == []
    assert tuning.record(wanted).state == "completed"
    assert tuning.record(orphan).state in ("preempted", "cancelled")


def test_a_cluster_that_is_down_is_reported_before_the_first_trial(tuning: Tuning) -> None:
    cells = tuning.cells
    cells.describe()
    tuning.describe()
    nowhere = cells.folder / "slurm.conf"
    nowhere.write_text("ClusterName=none\nSlurmctldHost=localhost\nSlurmctldPort=1\nMessageTimeout=2\n")
    said = tuning.end(tuning.begin(has_own_ray=True, SLURM_CONF=str(nowhere)), expect=2)
    assert "error:" in said
    assert "Traceback" not in said
    assert not list(cells.output_dir.glob("*/run.json"))


def test_a_trial_on_two_nodes_that_runs_too_long(tuning: Tuning) -> None:
    cells = tuning.cells
    cells.describe(nodes=2, step_s=0.5)
    trials = {"cluster": str(cells.folder / "cluster.yaml"), "at_a_time": 1, "timeout_s": 15}
    space = {"recipe.epochs": {"kind": "grid", "values": [4, 400]}}
    tuning.describe(space=space, seeds=[0], trials=trials, overrides=OVERRIDES[:-1])
    first, late = tuning.runs
    driver = tuning.begin()
    tuning.wait(driver, "steps of it", lambda: tuning.step(first) > 0)
    cells.pace(0.0)
    wait_until("its end", lambda: cells.record(first).get("state") == "completed")
    cells.pace(0.5)
    said = tuning.end(driver, expect=3)
    assert "1 of 2 runs completed" in said
    assert cells.jobs() == []
    record = tuning.record(late)
    assert (record.state, record.reason) == ("failed", "ran longer than 15 s (trials.timeout_s)")
    assert record.status["world_size"] == tuning.record(first).status["world_size"] == 2
