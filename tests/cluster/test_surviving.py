"""Requeues, preemption, failing nodes and killed tasks: a run that trains ends bit-equal to a calm one.

SIGTERM and SIGUSR2 each reach a run with DALI's loader and one with torchvision's, whose threads and
processes see signals differently. What stops no run, and a kill, are tried with the stand-in trainer; that a
killed run ends bit-equal is tested in tests/train.
"""

import signal
from pathlib import Path

import psutil
import pytest

from suite.experiment import Run
from suite.record import Record
from tests.cluster import testcluster
from tests.helpers.bit_equal import assert_bit_equal, final_state, measured
from tests.helpers.cells import Cells, configured, slurm, wait_until
from tests.helpers.training_processes import train

pytestmark = pytest.mark.timeout(900)
SPANNING = ("model.arch=small_resnet11", "data.image_size=8", "batch.norm_batch_size=16")
DAY_S = 86_400
URGENT = ("-p", "urgent", "-N4", "--exclusive", "-t", "1", "--wrap", "sleep 2", "-o", "/dev/null")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> "Reference":
    return Reference(tmp_path_factory.mktemp("undisturbed"))


class Reference:
    """Undisturbed runs: each is trained once without a cluster, when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of(self, run: Run, world_size: int = 1) -> Path:
        folder = self.folder / f"{run.run_id}-{run.data.loader}-{world_size}"
        if not folder.exists():
            assert train(run, folder, world_size=world_size) == [0] * world_size
        return folder


def assert_completes(cells: Cells, attempts: int = 2) -> Record:
    """Assert that the run completes in so many attempts."""
    cells.wait_for_state("completed")
    record = Record.read(cells.paths().folder)
    assert record.status["attempts"] == attempts
    return record


def assert_ends_as(cells: Cells, reference: Path, attempts: int = 2) -> Record:
    """Assert that the run completes in so many attempts with the same weights and measurements."""
    record = assert_completes(cells, attempts)
    assert_bit_equal(final_state(cells.paths().folder), final_state(reference))
    assert measured(cells.paths().folder) == measured(reference)
    return record


def test_a_requeue_in_mid_epoch_of_two_nodes_whose_clocks_were_a_day_ahead(
    training_cells: Cells, undisturbed: Reference
) -> None:
    """They are set right while the job waits for its second start."""
    cells = training_cells
    clock = cells.folder / "clock"
    clock.write_text(str(DAY_S))
    cells.describe(nodes=2, step_s=0.2, environment={"SHIFTBENCH_TEST_CLOCK": str(clock)})
    cells.submit(*SPANNING)  # a network whose BN statistics span both ranks
    cells.wait_for_step(40)
    shown, (seen,) = cells.call("status").stdout, cells.status().values()
    assert "is 1440 min ahead of the file system's" in " ".join(shown.split())
    assert seen["state"] == "running"
    assert 0 <= seen["eta_s"] < 600
    job = cells.job()
    slurm("scontrol", "requeue", job)
    clock.write_text("0")
    cells.hurry(job)
    cells.pace(0)
    record = assert_ends_as(cells, undisturbed.of(cells.run, world_size=2))
    first, second = record.provenance
    assert (first["restart"], second["restart"]) == (0, 1)
    assert second["world_size"] == 2
    # SIGTERM took effect at the end of a step, in the middle of the only epoch, and no step was lost.
    assert 40 <= record.status["resumed_from_step"] < 100
    assert record.status["lost_steps"] == 0
    assert 0.9 * DAY_S < first["started_at"] - second["started_at"] < DAY_S
    assert 0 < record.status["queue_wait_s"] < 600  # and not a day


def test_a_slurmd_that_dies_in_training(training_cells: Cells, undisturbed: Reference) -> None:
    cells = training_cells
    cells.describe(step_s=1.0)  # longer than the controller takes to notice
    cells.submit()
    cells.wait_for_step(20)
    ((job, _, node, _),) = cells.jobs()
    # Its job step keeps training, as on a node that is cut off from the controller.
    testcluster.stop(f"slurmd-{node}", signal.SIGKILL)
    cells.hurry(job)
    wait_until("a start elsewhere", lambda: cells.record().get("nodes") not in {node, None})
    cells.pace(0)
    record = assert_ends_as(cells, undisturbed.of(cells.run))
    # The newer start asked the older one to leave, which wrote a checkpoint: they never wrote at once.
    assert "by a newer start of this run" in cells.paths().log.read_text()
    assert record.status["lost_steps"] == 0


def test_a_time_limit_shorter_than_an_epoch(with_workers: Cells, undisturbed: Reference) -> None:
    # 150 s of steps in the only epoch; the warning comes 30 to 60 s after the start.
    cells = with_workers
    cells.describe(time="2", signal_delay_s=60, step_s=1.5)
    cells.submit()
    job = cells.job()
    cells.wait_for_state("preempted")
    assert "by SIGUSR2" in cells.record()["reason"]
    cells.hurry(job)
    cells.pace(0)
    record = assert_ends_as(cells, undisturbed.of(cells.run))
    assert record.status["lost_steps"] == 0
    assert 0 < record.status["resumed_from_step"] < 100


def test_preemption(training_cells: Cells, undisturbed: Reference) -> None:
    assert_survives_preemption(training_cells, undisturbed, "by SIGUSR2")


def test_preemption_without_a_warning(with_workers: Cells, undisturbed: Reference) -> None:
    """SIGTERM, to every process of the job."""
    with configured("SlurmctldParameters=preempt_send_user_signal", ""):
        assert_survives_preemption(with_workers, undisturbed, "by SIGTERM")


def assert_survives_preemption(cells: Cells, undisturbed: Reference, reason: str) -> None:
    cells.describe(step_s=0.2)
    cells.submit()
    cells.wait_for_step(20)
    job = cells.job()
    slurm("sbatch", *URGENT)
    wait_until(reason, lambda: reason in (cells.record().get("reason") or ""))
    cells.hurry(job)
    cells.pace(0)
    record = assert_ends_as(cells, undisturbed.of(cells.run))
    assert record.status["lost_steps"] == 0


def test_a_controller_that_restarts(cells: Cells) -> None:
    cells.describe(step_s=0.5)
    cells.submit()
    cells.wait_for_step(20)  # the controller writes its state after some five seconds
    testcluster.stop("slurmctld", signal.SIGKILL)
    (seen,) = cells.status().values()
    assert seen["state"] == "running"
    assert "Slurm does not answer" in cells.call("status").stdout
    testcluster.up()
    cells.pace(0)
    assert_completes(cells, attempts=1)


def test_a_warning_while_a_data_worker_is_stopped(with_workers: Cells, undisturbed: Reference) -> None:
    """The run is abandoned before its time ends, and its job's script has it queued again."""
    cells = with_workers
    cells.describe(step_s=0.2, signal_delay_s=35)
    cells.submit()
    cells.wait_for_step(20)
    job = cells.job()
    for process in psutil.process_iter(["name", "environ"]):
        if (
            process.info["name"] == "pt_data_worker"
            and (process.info["environ"] or {}).get("SLURM_JOB_ID") == job
        ):
            process.suspend()
    slurm("scancel", "--signal=USR2", f"{job}.0")
    why = "the loader has given no batch for"
    wait_until(why, lambda: why in (cells.record().get("reason") or ""))
    cells.hurry(job)
    cells.pace(0)
    assert_ends_as(cells, undisturbed.of(cells.run))


def test_a_warning_while_the_controller_is_away_for_longer_than_the_grace_time(cells: Cells) -> None:
    cells.describe(step_s=0.5, signal_delay_s=10)
    cells.submit()
    cells.wait_for_step(20)
    job = cells.job()
    slurm("scancel", "--signal=USR2", f"{job}.0")
    testcluster.stop("slurmctld", signal.SIGKILL)
    why = "it could not be requeued yet"
    wait_until(why, lambda: why in (cells.record().get("reason") or ""))
    assert cells.record()["state"] == "preempted"
    assert "`shiftbench retry`" in cells.record()["reason"]
    testcluster.up()
    cells.hurry(job)  # the script asked on
    cells.pace(0)
    assert assert_completes(cells).status["lost_steps"] == 0


def test_a_task_that_is_killed_and_a_retry(cells: Cells) -> None:
    cells.describe(step_s=0.2)
    cells.submit()
    cells.wait_for_step(40)
    wait_until(
        "progress beyond the checkpoint",
        lambda: cells.record()["step"] > cells.paths().checkpoint_steps()[-1],
    )
    slurm("scancel", "--signal=KILL", f"{cells.job()}.0")  # the task alone, without a warning
    wait_until("the end", lambda: not cells.jobs())
    last_step, checkpoint = cells.record()["step"], cells.paths().checkpoint_steps()[-1]
    (seen,) = cells.status().values()
    assert seen["state"] == "failed"
    assert "Killed" in seen["reason"], seen
    assert Record.read(cells.paths().folder).reason == seen["reason"]
    cells.pace(0)
    assert cells.call("retry", "--failed").returncode == 0
    record = assert_completes(cells)
    assert record.status["resumed_from_step"] == checkpoint
    assert record.status["lost_steps"] == last_step - checkpoint > 0
    assert record.status["rank_s"] > 0
