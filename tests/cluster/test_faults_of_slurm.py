"""Munge that is away, jobs that an administrator holds or suspends, and kills at random."""

import os
import random
import signal
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from jobs.cluster import slurm_commands, submit
from jobs.cluster.clusters import backend_of
from jobs.cluster.ledger import Ledger
from jobs.cluster.slurm_commands import ACTIVE
from suite.record import Record
from tests.cluster import testcluster
from tests.cluster.daemons import is_of_ours
from tests.helpers.cells import Cells, configured, slurm, task_pids, wait_until

pytestmark = pytest.mark.timeout(900)
CELLS, KILLS, END_S = 24, 6, 150.0
FIRST_KILLS = ("task", "slurmstepd", "task", "slurmd", "slurmctld")
REGISTER_EVERY_S = 11.0  # BatchStartTimeout, for which the controller waits for a job's first process


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of Slurm are given up after two seconds. Without munge, Slurm itself tries for fifty."""
    monkeypatch.setattr(slurm_commands.ask, "__kwdefaults__", {"timeout_s": 2.0})


def test_munge_is_away_while_a_run_trains(cells: Cells, impatient: None) -> None:
    with configured("SlurmdTimeout=10", "SlurmdTimeout=300"):  # which is Slurm's default
        cells.describe(step_s=0.2)
        cells.submit()
        cells.wait_for_step(20)
        job = cells.job()
        testcluster.stop("munged", signal.SIGKILL)
        shown = cells.call("status").stdout
        (seen,) = cells.status().values()
        refused = cells.call("cancel", "--all")
        testcluster.start("munged")
        assert "Slurm does not answer" in shown
        assert seen["state"] == "running"
        assert refused.returncode == 1, refused.stderr
        assert "not every run could be cancelled: scancel did not answer" in refused.stderr
        cells.pace(0)
        cells.wait_for_state("completed")
        wait_until("the end", lambda: not cells.jobs())
    status = cells.record()
    assert (status["attempts"], status["lost_steps"], status["job"]) == (1, 0, job)


def test_a_warning_while_munge_is_away(cells: Cells) -> None:
    cells.describe(step_s=0.2)
    cells.submit()
    cells.wait_for_step(20)
    job = cells.job()
    testcluster.stop("munged", signal.SIGKILL)
    for pid in task_pids():
        os.kill(pid, signal.SIGUSR2)
    cells.wait_for_state("preempted")
    time.sleep(1.0)  # it asks for its requeue
    testcluster.start("munged")
    cells.hurry(job)
    cells.pace(0)
    cells.wait_for_state("completed")
    status = cells.record()
    assert (status["attempts"], status["lost_steps"], status["job"]) == (2, 0, job)
    assert status["resumed_from_step"] >= 20


def test_a_job_that_is_held_and_one_that_is_suspended(cells: Cells) -> None:
    cells.describe(step_s=0.1, array_parallelism=1)
    cells.submit("data.train_images=1600", "seeds=[0, 1]")
    first, second = cells.runs
    cells.wait_for_step(20, first)
    array = cells.job().partition("_")[0]
    slurm("scontrol", "suspend", f"{array}_0")
    slurm("scontrol", "hold", f"{array}_1")
    seen = cells.status()
    step = cells.record(first)["step"]
    assert seen[first.folder_name]["state"] == "queued"
    assert "SUSPENDED" in seen[first.folder_name]["reason"]
    assert seen[second.folder_name]["state"] == "queued"
    assert "JobHeld" in seen[second.folder_name]["reason"]
    time.sleep(1.0)
    assert cells.record(first)["step"] <= step + 1  # its task is stopped
    slurm("scontrol", "release", f"{array}_1")
    slurm("scontrol", "resume", f"{array}_0")
    cells.pace(0)
    for run in (first, second):
        cells.wait_for_state("completed", run)
        assert cells.record(run)["attempts"] == 1
    wait_until("the end", lambda: not cells.jobs())


def test_kills_at_random_and_retries_complete_each_run_once(
    cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "ENDING_S", 3.0)  # jobs without processes end only when their nodes register
    cells.describe(step_s=1.0, array_parallelism=8)  # so that the kills find runs that train
    cells.submit("data.train_images=160", "measure.precise_bn_images=0", f"seeds={list(range(CELLS))}")
    chance, completed = random.Random(20), Completed(cells)
    wait_until("tasks that train", lambda: len(task_pids()) > 4)
    for what in [*FIRST_KILLS, *chance.choices(list(FIRST_KILLS), k=KILLS)]:
        time.sleep(chance.uniform(0.2, 1.5))
        kill(what, chance)
        completed.look()
    # Whom the kills above hit depends on the machine's speed: go on until a run notices.
    wait_until("a run that was hit", lambda: is_hit(cells) or kill("task", chance), timeout_s=60)
    cells.pace(0)
    began_at, registered_at = time.monotonic(), 0.0
    while len(completed.look()) < CELLS or cells.jobs():
        now = time.monotonic()
        assert now < began_at + END_S, cells.logs()
        if now > registered_at + REGISTER_EVERY_S:
            registered_at = now
            start_nodes_again()
        start_requeued()
        if any(run["state"] == "failed" for run in cells.status().values()):
            assert cells.call("retry", "--failed").returncode in (0, 3)  # 3: a job has not ended yet
        time.sleep(1.0)
    assert len(completed.look()) == CELLS
    assert is_hit(cells)
    for run in cells.runs:
        lines = Record.read(cells.paths(run).folder).lines
        measured = [(line["metric"], line.get("split"), line["epoch"]) for line in lines]
        assert len(measured) == len(set(measured))


def is_hit(cells: Cells) -> bool:
    """Return whether some run has failed, or was begun again by Slurm or by `retry`."""
    runs = [run for run in cells.status().values() if run["state"] == "failed"]
    attempts = [cells.record(run).get("attempts", 0) for run in cells.runs]
    return bool(runs) or max(attempts) > 1 or len(Ledger(cells.output_dir).read()) > 1


def kill(what: str, chance: random.Random) -> None:
    """Kill a task, a job's slurmstepd, a node's slurmd or the controller; daemons are started again."""
    if what == "slurmd":
        testcluster.stop(f"slurmd-{chance.choice(testcluster.NODES)}", signal.SIGKILL)
    elif what == "slurmctld":
        testcluster.stop("slurmctld", signal.SIGKILL)
    elif pids := sorted(task_pids() if what == "task" else stepd_pids()):
        os.kill(chance.choice(pids), signal.SIGKILL)
    testcluster.start("slurmctld")
    for node in testcluster.NODES:
        testcluster.start(f"slurmd-{node}")


def start_nodes_again() -> None:
    """Have each node register, so that the controller learns which of its jobs are gone."""
    for node in testcluster.NODES:
        testcluster.stop(f"slurmd-{node}", signal.SIGKILL)
        testcluster.start(f"slurmd-{node}")


def stepd_pids() -> list[int]:
    """Return the processes that hold the steps of this cluster's jobs."""
    every = [path.parent for path in Path("/proc").glob("[0-9]*/comm") if "slurmstepd" in read(path)]
    return [int(path.name) for path in every if is_of_ours(int(path.name))]


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # it has ended meanwhile


def start_requeued() -> None:
    """Start requeued jobs soon, which would wait for two minutes, or until somebody releases them."""
    soon = datetime.now() + timedelta(seconds=5)
    for line in slurm("squeue", "-h", "--array", "-t", "PENDING", "-o", "%i|%r|%S").splitlines():
        job, reason, start = line.split("|")
        if "held" in reason:  # by Slurm: a restarted controller had forgotten that it runs
            testcluster.is_done("scontrol", "release", job)
        # A start that is put off each second never comes.
        if reason == "BeginTime" and start[:1].isdigit() and datetime.fromisoformat(start) > soon:
            testcluster.is_done("scontrol", "update", f"JobId={job}", "StartTime=now")


class Completed:
    """The runs that have completed, none of which may be touched again."""

    def __init__(self, cells: Cells) -> None:
        self.cells = cells
        self.seen: dict[str, tuple[object, ...]] = {}

    def look(self) -> dict[str, tuple[object, ...]]:
        """Return what is known of them, after checking that it is as before, and that no run has two jobs."""
        for run in self.cells.runs:
            status = self.cells.record(run)
            if status.get("state") == "completed" or run.folder_name in self.seen:
                size_bytes = self.cells.paths(run).measurements.stat().st_size
                known = (status["state"], status["attempts"], status["updated_at"], size_bytes)
                assert self.seen.setdefault(run.folder_name, known) == known
        self._check_jobs()
        return self.seen

    def _check_jobs(self) -> None:
        text = slurm("squeue", "-h", "--array", "-o", "%i|%T", check=False)
        active = {job for job, state in (line.split("|") for line in text.splitlines()) if state in ACTIVE}
        jobs: dict[str, list[str]] = {}
        for one in Ledger(self.cells.output_dir).read():
            for folder, job in backend_of(one).job_ids(one).items():
                jobs.setdefault(folder, []).extend({job} & active)
        assert all(len(ids) <= 1 for ids in jobs.values()), jobs
