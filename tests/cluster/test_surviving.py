"""What clusters do to a run, and the run ends bit-equal to the one that nobody disturbed."""

import signal
import time
from pathlib import Path

import pytest

from suite.config import load_experiment
from suite.experiment import Run
from suite.record import Record
from tests.cluster import testcluster
from tests.cluster.cells import Cells, slurm, wait_until
from tests.train.processes import train
from tests.train.test_resume import assert_bit_equal, final_state, measured

pytestmark = pytest.mark.timeout(500)
TWO_RANKS = ("batch.norm_batch_size=16",)  # each BN statistic spans both ranks
LONG = ("data.train_images=6400", "recipe.epochs=1")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> "Reference":
    return Reference(tmp_path_factory.mktemp("undisturbed"))


class Reference:
    """Each run once without a cluster, when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of(self, run: Run, world_size: int = 1) -> Path:
        folder = self.folder / f"{run.run_id}-{world_size}"
        if not folder.exists():
            assert train(run, folder, world_size=world_size) == [0] * world_size
        return folder


def assert_ends_as(cells: Cells, reference: Path, attempts: int = 2) -> Record:
    """Complete, in so many attempts, and bit-equal in weights and measurements."""
    cells.wait_for_state("completed")
    record = Record.read(cells.paths().folder)
    assert record.status["attempts"] == attempts
    assert_bit_equal(final_state(cells.paths().folder), final_state(reference))
    assert measured(cells.paths().folder) == measured(reference)
    return record


def test_a_requeue_in_mid_epoch_on_two_nodes(cells: Cells, undisturbed: Reference) -> None:
    cells.describe(nodes=2)
    cells.submit(*TWO_RANKS)
    cells.wait_for_step(40)
    job = cells.job()
    slurm("scontrol", "requeue", job)
    cells.hurry(job)
    record = assert_ends_as(cells, undisturbed.of(cells.run, world_size=2))
    first, second = record.provenance
    assert (first["restart"], second["restart"]) == (0, 1)
    assert second["world_size"] == 2
    # SIGTERM was heard at a step's end: nothing was lost, and in the middle of the only epoch.
    assert 40 <= record.status["resumed_from_step"] < 200
    assert record.status["lost_steps"] == 0
    assert record.status["queue_wait_s"] > 0


def test_a_slurmd_that_dies_in_training(cells: Cells, undisturbed: Reference) -> None:
    cells.submit(*LONG)
    cells.wait_for_step(20)
    job, (_, _, node, _) = cells.job(), cells.jobs()[0]
    # Its step goes on training: a node that is cut off, as the controller sees it.
    testcluster.stop(f"slurmd-{node}", signal.SIGKILL)
    cells.hurry(job)
    record = assert_ends_as(cells, undisturbed.of(cells.run))
    log = cells.paths().log.read_text()
    assert "a newer start of this run" in log or record.status["resumed_from_step"] > 0
    assert record.status["nodes"] != node


def test_a_time_limit_shorter_than_an_epoch(cells: Cells, undisturbed: Reference) -> None:
    cells.describe(time="2", signal_delay_s=60)
    cells.submit("data.train_images=6400", "recipe.epochs=1", "batch.global_batch_size=8")  # 800 steps
    job = cells.job()
    starts = 1
    while cells.record().get("state") != "completed":
        wait_until("a warning, or the end", lambda: cells.record().get("state") in ("preempted", "completed"))
        if cells.record()["state"] == "preempted":
            assert "by SIGUSR2" in cells.record()["reason"]
            starts += 1
            cells.hurry(job)
            wait_until("the next start", lambda: cells.record()["state"] != "preempted")
    assert starts > 1
    record = assert_ends_as(cells, undisturbed.of(cells.run), attempts=starts)
    assert record.status["lost_steps"] == 0


def test_preemption(cells: Cells, undisturbed: Reference) -> None:
    cells.submit()
    cells.wait_for_step(20)
    job = cells.job()
    urgent = ("-p", "urgent", "-N4", "--exclusive", "-t", "1", "--wrap", "sleep 2", "-o", "/dev/null")
    slurm("sbatch", *urgent)
    cells.wait_for_state("preempted")
    cells.hurry(job)
    record = assert_ends_as(cells, undisturbed.of(cells.run))
    assert record.status["lost_steps"] == 0


def test_a_controller_that_restarts(cells: Cells, undisturbed: Reference) -> None:
    cells.submit()
    cells.wait_for_step(20)
    testcluster.stop("slurmctld", signal.SIGKILL)
    assert "Slurm does not answer" in cells.call("status").stdout
    time.sleep(2)
    testcluster.up()
    assert_ends_as(cells, undisturbed.of(cells.run), attempts=1)


def test_a_task_that_is_killed_is_a_failure_with_a_reason_and_retry_resumes_it(
    cells: Cells, undisturbed: Reference
) -> None:
    cells.describe(nodes=2)
    cells.submit(*TWO_RANKS)
    cells.wait_for_step(20)
    slurm("scancel", "--signal=KILL", f"{cells.job()}.0")  # every task of the step, without a word
    wait_until("the end", lambda: not cells.jobs())
    (seen,) = cells.status().values()
    assert seen["state"] == "failed"
    assert "killed by signal 9" in seen["reason"] or "exit code 137" in seen["reason"], seen
    assert Record.read(cells.paths().folder).reason == seen["reason"]
    assert cells.call("retry", "--failed").returncode == 0
    record = assert_ends_as(cells, undisturbed.of(cells.run, world_size=2))
    assert load_experiment(cells.config, TWO_RANKS).runs[0].run_id == record.run_id
