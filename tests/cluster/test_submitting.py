"""Whole experiments on the real cluster: every run is trained once, cancelled, retried, reported."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from suite.record import Record
from tests.helpers.cells import QUICK, ROOT, Cells, needs_mounts, slurm, wait_until

pytestmark = pytest.mark.timeout(900)


def states(cells: Cells) -> list[str]:
    return sorted(run["state"] for run in cells.status().values())


def test_detection_on_two_nodes_of_two_tasks(training_cells: Cells) -> None:
    """The detection demo, shortened: statistics span the four ranks, which have one image each."""
    cells = training_cells
    cells.config = ROOT / "configs" / "experiments" / "detection-demo.yaml"
    cells.describe(nodes=2, ntasks_per_node=2, array_parallelism=1)
    batch = "batch={global_batch_size: 4, batch_size_per_gpu: 1, norm_batch_size: 4}"
    cells.submit(batch, "task.batch_norm=trained", "model.norm={kind: xbn, bfn: gn}", "seeds=[0]", *SHORT)
    cells.wait_for_state("completed")
    record = Record.read(cells.paths().folder)
    assert record.provenance[0]["world_size"] == 4
    assert re.fullmatch(r"n\[\d[-,]\d\]", record.provenance[0]["nodes"])
    assert record.provenance[0]["snapshot"]  # the job ran the snapshot's sources, which know their commit
    assert record.last("images_evaluated") == 9
    assert record.last("ap_percent") >= 0
    assert record.last_per_layer("esm_sigma", "val")
    assert_reported(cells, "XBN-P2-GN8", "AP50 (%)")


SHORT = (
    "recipe={iterations: 4, warmup_iterations: 1, lr: 0.02, schedule: cosine}",
    "measure={every_iterations: 4, precise_bn_images: 8}",
    "data.train_images=40",
    "data.val_images=9",
)


def assert_reported(cells: Cells, *labels: str) -> None:
    out = cells.folder / "out"
    command = [sys.executable, "-m", "jobs.cli", "report", str(cells.output_dir), "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (out / "report.md").read_text()
    assert all(label in text for label in labels), text


def test_seven_cells_four_at_a_time_each_once_also_with_a_retry_in_the_middle(cells: Cells) -> None:
    cells.describe(array_parallelism=4, step_s=0.5)
    seven = (*QUICK, "recipe.epochs=8", f"seeds={list(range(7))}")
    printed = cells.submit(*seven).stdout
    assert "7 submitted" in printed
    assert "shiftbench status --watch" in printed
    again = cells.submit(*seven).stdout
    assert "0 submitted, 7 queued already" in again
    wait_until("the first", lambda: cells.record(cells.runs[0]).get("state") == "running")
    slurm("scancel", cells.job().partition("_")[0] + "_0")
    # Its job is still ending: `retry` waits for that, and the new job for the array, which goes on.
    retried = cells.call("retry", "--failed").stdout
    assert "1 submitted" in retried
    assert "its array_parallelism limits the runs at a time" in retried
    at_once = 0
    while jobs := cells.jobs():
        at_once = max(at_once, sum(row[1] == "RUNNING" for row in jobs))
        cells.pace(0.5 if at_once < 4 else 0.0)
        time.sleep(0.3)
    assert at_once == 4
    assert states(cells) == ["completed"] * 7
    assert "0 submitted, 7 complete" in cells.submit(*seven).stdout
    attempts = [Record.read(cells.paths(run).folder).status["attempts"] for run in cells.runs]
    assert attempts == [2, 1, 1, 1, 1, 1, 1]
    assert_reported(cells, "7 of 7")


def test_one_task_is_cancelled_and_the_others_continue(cells: Cells) -> None:
    cells.describe(step_s=0.1)
    cells.submit(*QUICK, "recipe.epochs=40", "seeds=[0, 1, 2]")
    first, second, third = cells.runs
    for run in (first, second):
        wait_until("two that run", lambda run=run: cells.record(run).get("state") == "running")
    array = cells.job().partition("_")[0]
    slurm("scancel", f"{array}_1")
    for run in (first, third):
        cells.wait_for_state("completed", run)
    wait_until("the end", lambda: not cells.jobs())
    cancelled = cells.status()[second.folder_name]
    assert cancelled["state"] == "cancelled"
    assert "was cancelled; stopped after step" in cancelled["reason"]
    assert Record.read(cells.paths(second).folder).state == "cancelled"
    assert "1 submitted" in cells.call("retry", "--failed").stdout
    cells.wait_for_state("completed", second)
    assert cells.record(second)["attempts"] == 2


def test_cancel_and_logs(cells: Cells) -> None:
    cells.describe(array_parallelism=1, step_s=0.1)
    cells.submit(*QUICK, "recipe.epochs=100", "seeds=[0, 1]")
    first, second = cells.runs
    wait_until("the first", lambda: cells.record(first).get("state") == "running")
    logs = cells.call("logs", first.run_id[:6])
    assert logs.returncode == 0
    assert "Starting with JobEnvironment" in logs.stdout  # the job's output
    assert "has no logs yet" in cells.call("logs", second.run_id).stderr
    assert "2 runs cancelled" in cells.call("cancel", "--all").stdout
    # At once: the run that had begun has ended.
    assert states(cells) == ["cancelled", "cancelled"]
    assert "2 submitted" in cells.call("retry", "--failed").stdout
    wait_until("the first", lambda: cells.record(first).get("state") == "running")
    slurm("scancel", cells.job().partition("_")[0])  # by hand, which waits for nothing
    assert "2 submitted" in cells.call("retry", "--failed").stdout
    wait_until("the first", lambda: cells.record(first).get("state") == "running")
    slurm("scancel", cells.job().partition("_")[0])
    assert "2 submitted" in cells.submit(*cells.overrides).stdout
    assert "2 runs cancelled" in cells.call("cancel", "--all").stdout
    wait_until("the end", lambda: not cells.jobs())
    assert states(cells) == ["cancelled", "cancelled"]
    # The run that had begun wrote a checkpoint.
    assert cells.paths(first).checkpoint_steps()
    assert cells.call("cancel").returncode == 2


@needs_mounts
def test_a_full_file_system(cells: Cells, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], check=True)
    try:
        cells.output_dir = small / "runs"
        cells.describe(step_s=0.1, jobs_folder=str(tmp_path / "jobs"), checkpoint_bytes=2**20)
        cells.submit("data.train_images=1280")
        cells.wait_for_step(20)
        (small / "filler").write_bytes(b"x" * (shutil.disk_usage(small).free - 4096))
        wait_until("the end", lambda: not cells.jobs())
        (seen,) = cells.status().values()
        assert seen["state"] == "failed", seen
        assert "No space left on device" in seen["reason"] or "is full" in seen["reason"], seen
        assert cells.paths().checkpoint_steps()  # the last complete one is kept
        (small / "filler").unlink()
        assert cells.call("retry", "--failed").returncode == 0
        cells.wait_for_state("completed")
        assert cells.record()["resumed_from_step"] >= 20
        wait_until("the end", lambda: not cells.jobs())
    finally:
        cells.clear()
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_names_reach_the_shell_quoted(cells: Cells, tmp_path: Path) -> None:
    cells.output_dir = tmp_path / 'it\'s $(touch owned) `here`; "so"'
    cells.describe(
        environment={"SHIFTBENCH_ODD": "$(touch owned2); 'x'"}, setup=['echo "got $SHIFTBENCH_ODD"']
    )
    cells.submit(*QUICK, "name=a b; $(touch owned3)/../c")
    cells.wait_for_state("completed")
    assert "got $(touch owned2); 'x'" in cells.logs()
    assert not [path for path in (*ROOT.glob("owned*"), *tmp_path.rglob("owned*")) if path.is_file()]


def test_the_setup_of_a_job_that_fails(cells: Cells) -> None:
    cells.describe(python="/nowhere/python")
    cells.submit(*QUICK)
    wait_until("the end", lambda: not cells.jobs())
    (seen,) = cells.status().values()
    assert seen["state"] == "failed"
    assert "/nowhere/python" in seen["reason"], seen
    module = "module() { echo \"ERROR: Unable to locate a modulefile for '$2'\" >&2; return 1; }"
    cells.describe(setup=[module, "module load cuda/99"])
    file = str(cells.folder / "cluster.yaml")
    assert "1 submitted" in cells.call("retry", "--failed", "--cluster", file).stdout
    wait_until("the end", lambda: not cells.jobs())
    (seen,) = cells.status().values()
    assert seen["state"] == "failed"
    said = "module load cuda/99; ERROR: Unable to locate a modulefile for 'cuda/99'"
    assert seen["reason"].endswith(f"shiftbench: setup failed with exit code 1: {said}"), seen
