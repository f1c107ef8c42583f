"""What clusters do to a run, and the run ends bit-equal to the one that nobody disturbed."""

import os
import signal
from pathlib import Path

import pytest

from suite.experiment import Run
from suite.record import Record
from tests.cluster import testcluster
from tests.helpers.bit_equal import assert_bit_equal, final_state, measured
from tests.helpers.cells import Cells, configured, slurm, wait_until
from tests.helpers.training_processes import train

pytestmark = pytest.mark.timeout(900)
URGENT = ("-p", "urgent", "-N4", "--exclusive", "-t", "1", "--wrap", "sleep 2", "-o", "/dev/null")
TWO_RANKS = ("batch.norm_batch_size=16",)  # each BN statistic spans both ranks


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
    cells.describe(nodes=2, step_s=0.05)
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
    cells.describe(step_s=0.5)  # longer than the controller takes to notice
    cells.submit()
    cells.wait_for_step(20)
    ((job, _, node, _),) = cells.jobs()
    # Its step trains on, as on a node that is cut off from the controller.
    testcluster.stop(f"slurmd-{node}", signal.SIGKILL)
    cells.hurry(job)
    wait_until("a start elsewhere", lambda: cells.record().get("nodes") not in (node, None))
    cells.pace(0.05)
    record = assert_ends_as(cells, undisturbed.of(cells.run))
    # The newer start asked the older one to leave, which wrote a checkpoint: two never wrote at once.
    assert "by a newer start of this run" in cells.paths().log.read_text()
    assert record.status["lost_steps"] == 0


def test_a_time_limit_shorter_than_an_epoch(cells: Cells, undisturbed: Reference) -> None:
    # 160 s of steps in the only epoch; the warning comes 60 to 120 s after the start.
    cells.describe(time="3", signal_delay_s=60, step_s=0.8)
    cells.submit()
    job = cells.job()
    cells.wait_for_state("preempted")
    assert "by SIGUSR2" in cells.record()["reason"]
    cells.pace(0.05)
    cells.hurry(job)
    record = assert_ends_as(cells, undisturbed.of(cells.run))
    assert record.status["lost_steps"] == 0
    assert 0 < record.status["resumed_from_step"] < 200


def test_preemption(cells: Cells, undisturbed: Reference) -> None:
    cells.describe(step_s=0.1)
    cells.submit()
    cells.wait_for_step(20)
    job = cells.job()
    slurm("sbatch", *URGENT)
    cells.wait_for_state("preempted")
    assert "by SIGUSR2" in cells.record()["reason"]
    cells.hurry(job)
    record = assert_ends_as(cells, undisturbed.of(cells.run))
    assert record.status["lost_steps"] == 0


def test_preemption_where_nobody_warns(cells: Cells, undisturbed: Reference) -> None:
    with configured("SlurmctldParameters=preempt_send_user_signal", ""):
        cells.describe(step_s=0.1)
        cells.submit()
        cells.wait_for_step(20)
        job = cells.job()
        slurm("sbatch", *URGENT)
        wait_until("the end of the first", lambda: "by SIGTERM" in (cells.record().get("reason") or ""))
        cells.hurry(job)
        record = assert_ends_as(cells, undisturbed.of(cells.run))
    assert record.status["lost_steps"] == 0


def test_a_task_that_comes_back_and_its_array_does_not(cells: Cells) -> None:
    """Slurm gives one task the array's own id: asked by that alone, it would start every task again."""
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


def test_a_controller_that_restarts(cells: Cells, undisturbed: Reference) -> None:
    cells.describe(step_s=0.1)
    cells.submit()
    cells.wait_for_step(20)
    testcluster.stop("slurmctld", signal.SIGKILL)
    (seen,) = cells.status().values()
    assert seen["state"] == "running"
    assert "Slurm does not answer" in cells.call("status").stdout
    testcluster.up()
    assert_ends_as(cells, undisturbed.of(cells.run), attempts=1)


def test_tasks_that_are_killed_and_a_retry(cells: Cells, undisturbed: Reference) -> None:
    cells.describe(nodes=2, step_s=0.1)
    cells.submit(*TWO_RANKS)
    cells.wait_for_step(40)
    wait_until(
        "a word beyond the checkpoint", lambda: cells.record()["step"] > cells.paths().checkpoint_steps()[-1]
    )
    slurm("scancel", "--signal=KILL", f"{cells.job()}.0")  # every task of the step, without a word
    wait_until("the end", lambda: not cells.jobs())
    last_word, checkpoint = cells.record()["step"], cells.paths().checkpoint_steps()[-1]
    (seen,) = cells.status().values()
    assert seen["state"] == "failed"
    assert "Killed" in seen["reason"], seen
    assert Record.read(cells.paths().folder).reason == seen["reason"]
    assert cells.call("retry", "--failed").returncode == 0
    record = assert_ends_as(cells, undisturbed.of(cells.run, world_size=2))
    assert record.status["resumed_from_step"] == checkpoint
    assert record.status["lost_steps"] == last_word - checkpoint > 0
    assert record.status["rank_s"] > 0


def test_one_killed_rank_ends_the_job(cells: Cells) -> None:
    cells.describe(nodes=2, step_s=0.1)
    cells.submit(*TWO_RANKS, "system.collective_timeout_s=600")
    cells.wait_for_step(20)
    victims = [pid for pid in task_pids() if b"SLURM_PROCID=1" in environment_of(pid)]
    assert len(victims) == 1
    os.kill(victims[0], signal.SIGKILL)
    wait_until("the end", lambda: not cells.jobs())  # long before the collectives' time-out
    (seen,) = cells.status().values()
    assert seen["state"] == "failed"
    assert "was lost" in seen["reason"] or "Killed" in seen["reason"], seen


def test_a_rank_that_hangs_meets_the_time_out(cells: Cells) -> None:
    cells.describe(nodes=2, step_s=0.1)
    cells.submit(*TWO_RANKS, "system.collective_timeout_s=10")
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


def test_a_rank_that_raises_is_told_of_with_its_traceback(cells: Cells) -> None:
    cells.describe(nodes=2, step_s=0.05, fail="1:30")
    cells.submit(*TWO_RANKS)
    wait_until("the job", lambda: cells.jobs())
    wait_until("the end", lambda: not cells.jobs())
    (seen,) = cells.status().values()
    assert seen["state"] == "failed"
    assert seen["reason"] == "rank 1 on n2: ValueError: planted on this rank"
    shown = cells.call("status", seen["run_id"]).stdout
    assert "Traceback (most recent call last)" in shown
    assert 'raise ValueError("planted on this rank")' in shown
    assert "planted on this rank" in cells.call("logs", seen["run_id"], "--rank", "1").stdout


def task_pids() -> list[int]:
    """Processes that Slurm started for a task of ours."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"submitit.core._submit" in path.read_bytes() and b"srun" not in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue  # it has ended meanwhile
    return found


def environment_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
