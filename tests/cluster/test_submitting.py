"""Submitting to the real cluster: whole sweeps, once each, and clear words when it cannot be."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.submit import bench_submit
from jobs.cluster.ledger import Ledger
from suite.record import Record
from tests.cluster import testcluster
from tests.helpers.cells import QUICK, ROOT, Cells, configured, needs_mounts, slurm, wait_until

pytestmark = pytest.mark.timeout(900)


def states(cells: Cells) -> list[str]:
    return sorted(run["state"] for run in cells.status().values())


def test_the_demo_on_two_nodes_of_two_tasks(cells: Cells) -> None:
    cells.config = ROOT / "configs" / "experiments" / "demo.yaml"
    cells.describe(nodes=2, ntasks_per_node=2, array_parallelism=1)
    four_ranks = ("batch.batch_size_per_gpu=8", "batch.norm_batch_size=32", "seeds=[0]")
    cells.submit(*four_ranks, "recipe.epochs=1", "data.train_images=320", "system.torch_threads=1")
    for run in cells.runs:
        cells.wait_for_state("completed", run)
        record = Record.read(cells.paths(run).folder)
        assert record.provenance[0]["world_size"] == 4
        assert record.provenance[0]["nodes"] == "n[1-2]"
        assert record.last("images_evaluated") == 500
        assert record.last_per_layer("esm_sigma")
        # The sources that ran are the snapshot's, with their commit.
        assert record.provenance[0]["snapshot"]
    assert_reported(cells, "BN", "XBN-P2-GN8")


def assert_reported(cells: Cells, *labels: str) -> None:
    out = cells.folder / "out"
    command = [sys.executable, "-m", "jobs.cli", "report", str(cells.output_dir), "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (out / "report.md").read_text()
    assert all(label in text for label in labels), text


def test_twelve_cells_three_at_a_time_each_once(cells: Cells) -> None:
    cells.describe(array_parallelism=3)
    seeds = f"seeds={list(range(12))}"
    told = cells.submit(*QUICK, seeds).stdout
    assert "12 submitted" in told
    assert "shiftbench status --watch" in told
    again = cells.submit(*QUICK, seeds).stdout
    assert "0 submitted, 12 queued already" in again
    at_once = 0
    while jobs := cells.jobs():
        at_once = max(at_once, sum(row[1] == "RUNNING" for row in jobs))
        time.sleep(0.3)
    assert at_once == 3
    assert states(cells) == ["completed"] * 12
    assert "0 submitted, 12 complete" in cells.submit(*QUICK, seeds).stdout
    for run in cells.runs:
        assert Record.read(cells.paths(run).folder).status["attempts"] == 1
    assert_reported(cells, "12 of 12")


def test_one_cancelled_task_and_the_others_go_on(cells: Cells) -> None:
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
    assert "Starting with JobEnvironment" in logs.stdout  # the job's own output
    assert "has said nothing yet" in cells.call("logs", second.run_id).stderr
    assert "2 runs cancelled" in cells.call("cancel", "--all").stdout
    wait_until("the end", lambda: not cells.jobs())
    assert states(cells) == ["cancelled", "cancelled"]
    # What ran had time for a checkpoint.
    assert cells.paths(first).checkpoint_steps()
    assert cells.call("cancel").returncode == 2


# ---------------------------------------------------------------- what cannot be submitted


def assert_nothing_recorded(cells: Cells) -> None:
    assert not list(cells.output_dir.glob("*/run.json"))
    assert not Ledger(cells.output_dir).read()
    assert not list(cells.output_dir.glob(".shiftbench/*/*.pkl"))
    assert not cells.jobs()


def test_an_unknown_partition(cells: Cells) -> None:
    cells.describe(partition="nowhere")
    done = cells.submit(*QUICK, expect=2)
    assert "invalid partition specified: nowhere" in done.stderr
    assert "Traceback" not in done.stderr
    assert_nothing_recorded(cells)


def test_an_account_over_its_limit(cells: Cells) -> None:
    cells.describe(account="tiny")
    done = cells.submit(*QUICK, "seeds=[0, 1, 2]", expect=2)
    assert "AssocMaxSubmitJobLimit" in done.stderr or "job submit limit" in done.stderr, done.stderr
    assert_nothing_recorded(cells)


def test_no_sbatch_on_the_path(cells: Cells) -> None:
    done = cells.submit(*QUICK, expect=2, env={"PATH": "/nowhere"})
    assert "is not on the PATH" in done.stderr
    assert "leave out --cluster to train on this machine" in done.stderr
    assert_nothing_recorded(cells)


def test_the_controller_is_down(cells: Cells) -> None:
    testcluster.stop("slurmctld", signal.SIGKILL)
    done = cells.submit(*QUICK, "seeds=[0, 1]", expect=2)
    assert "Unable to contact slurm controller" in done.stderr
    assert not list(cells.output_dir.glob("*/run.json"))
    assert not Ledger(cells.output_dir).read()
    testcluster.up()
    assert "2 submitted" in cells.submit(*QUICK, "seeds=[0, 1]").stdout
    assert len(cells.jobs()) == 2


def test_the_accounting_is_down(cells: Cells) -> None:
    testcluster.stop("slurmdbd", signal.SIGKILL)
    cells.submit(*QUICK)
    cells.wait_for_state("completed")
    assert states(cells) == ["completed"]
    cells.describe(step_s=0.1)
    cells.submit(*QUICK, "seeds=[7]")
    wait_until("the run", lambda: cells.record().get("state") == "running")
    slurm("scancel", "--signal=KILL", f"{cells.job()}.0")
    wait_until("the end", lambda: not cells.jobs())
    seen = cells.call("status")
    assert seen.returncode == 0, seen.stderr
    assert "sacct does not answer" in seen.stdout
    assert "1 failed" in seen.stdout
    testcluster.up()


@pytest.fixture
def shared(cluster: None) -> Iterator[Cells]:
    """Cells in a folder that other accounts can reach, with runs that their group may write."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        ours = Cells(Path(folder))
        ours.output_dir.mkdir()
        shutil.chown(ours.output_dir, group="nogroup")
        ours.output_dir.chmod(0o2775)
        yield ours
        ours.clear()


def test_two_people_at_once_get_one_job_for_each_run(shared: Cells) -> None:
    both = [submit_as(user, shared) for user in ("nobody", "daemon")]
    told = sorted(process.communicate(timeout=100)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0], told
    assert "0 submitted, 4 queued already" in told[0]
    assert "4 submitted" in told[1]
    assert len(shared.jobs()) == 4
    (entry,) = Ledger(shared.output_dir).read()
    assert entry.user in ("nobody", "daemon")


def submit_as(user: str, cells: Cells) -> "subprocess.Popen[str]":
    """`shiftbench submit`, held, as another account; it may read the checkout wherever that lies."""
    jobs = cells.folder / f"jobs-{user}"
    jobs.mkdir(mode=0o700)
    shutil.chown(jobs, user=user)
    file = cells.describe(jobs_folder=str(jobs), additional_parameters={"hold": True})
    file = file.rename(cells.folder / f"{user}.yaml")
    account = ["setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups"]
    account += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    command = [sys.executable, "-m", "jobs.cli", "submit", str(cells.config), *QUICK, "seeds=[0, 1, 2, 3]"]
    command += ["--cluster", str(file), "--output-dir", str(cells.output_dir)]
    env = os.environ | {"USER": user, "LOGNAME": user, "HOME": "/nonexistent"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*account, *command], cwd=ROOT, env=env, umask=0o022, **pipes)


def test_a_submission_cut_off_before_its_job_was_noted(cells: Cells) -> None:
    cells.submit(*QUICK, "seeds=[0, 1]")
    ledger = Ledger(cells.output_dir)
    (entry,) = ledger.read()
    path = ledger.folder / f"{entry.token}.json"
    path.write_text(path.read_text().replace(f'"{entry.job_id}"', "null"))
    # Found again by its name, in the queue.
    assert "0 submitted, 2 queued already" in cells.submit(*QUICK, "seeds=[0, 1]").stdout
    assert {run["job"] for run in cells.status().values()} == {f"{entry.job_id}_0", f"{entry.job_id}_1"}


def shim(folder: Path, script: str) -> dict[str, str]:
    """An environment in which sbatch is this script; $REAL is the real one."""
    folder.mkdir()
    path = folder / "sbatch"
    path.write_text(f"#!/bin/sh\nREAL={shutil.which('sbatch')}\n{script}\n")
    path.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_sbatch_cannot_reach_the_controller(cells: Cells, tmp_path: Path) -> None:
    """It went away between the first question and the submission."""
    words = "sbatch: error: Batch job submission failed: Unable to contact slurm controller"
    env = shim(tmp_path / "bin", f"echo '{words}' >&2; exit 1")
    done = cells.submit(*QUICK, "seeds=[0, 1]", expect=2, env=env)
    assert words in done.stderr
    assert_nothing_recorded(cells)


def test_an_answer_that_was_lost(cells: Cells, tmp_path: Path) -> None:
    env = shim(
        tmp_path / "bin", '$REAL "$@"; echo "sbatch: error: Socket timed out on send/recv" >&2; exit 1'
    )
    done = cells.submit(*QUICK, "seeds=[0, 1]", expect=2, env=env)
    assert "whether Slurm took the job is not known yet" in done.stderr
    # It did: the jobs are found by their name, need nothing more, and are not submitted twice.
    assert "0 submitted, 2 queued already" in cells.submit(*QUICK, "seeds=[0, 1]").stdout
    assert len(cells.jobs()) == 2
    for run in cells.runs:
        cells.wait_for_state("completed", run)


def test_a_folder_removed_while_its_job_waits(cells: Cells) -> None:
    cells.describe(additional_parameters={"hold": True})
    cells.submit(*QUICK)
    folder = cells.paths().folder
    shutil.rmtree(folder)
    ((seen, *_),) = [list(cells.status().values())]
    assert seen["state"] == "queued"
    slurm("scontrol", "release", cells.job())
    cells.wait_for_state("completed")
    assert "was removed while the job waited" in (folder / "log.txt").read_text() + cells.said()


def test_sources_edited_while_a_job_waits_change_nothing(cells: Cells, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for package in ("suite", "jobs", "reports"):
        shutil.copytree(ROOT / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
    # Whatever the set-up does, as a line of `module load` might.
    elsewhere = f"export PYTHONPATH={checkout}"
    cells.describe(additional_parameters={"hold": True}, setup=[elsewhere])
    command = [sys.executable, "-m", "jobs.cli", "submit", str(cells.config), *QUICK]
    command += ["--cluster", str(cells.folder / "cluster.yaml"), "--output-dir", str(cells.output_dir)]
    cells.overrides = QUICK
    env = os.environ | {"PYTHONPATH": str(checkout)}
    assert subprocess.run(command, cwd=checkout, env=env).returncode == 0
    (checkout / "suite" / "train" / "loop.py").write_text("raise RuntimeError('edited meanwhile')\n")
    slurm("scontrol", "release", cells.job())
    cells.wait_for_state("completed")


@needs_mounts
def test_a_full_file_system(cells: Cells, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(small)], check=True)
    try:
        cells.output_dir = small / "runs"
        cells.describe(step_s=0.1, jobs_folder=str(tmp_path / "jobs"))
        cells.submit("data.train_images=1280")
        cells.wait_for_step(20)
        (small / "filler").write_bytes(b"x" * (shutil.disk_usage(small).free - 4096))
        wait_until("the end", lambda: not cells.jobs())
        (seen,) = cells.status().values()
        assert seen["state"] == "failed", seen
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
    assert "got $(touch owned2); 'x'" in cells.said()
    assert not [path for path in (*ROOT.glob("owned*"), *tmp_path.rglob("owned*")) if path.is_file()]


def test_an_array_is_split_at_the_sites_limit(cells: Cells) -> None:
    with configured("MaxArraySize=1001", "MaxArraySize=3"):
        cells.describe(array_parallelism=2, additional_parameters={"hold": True})
        told = cells.submit(*QUICK, f"seeds={list(range(7))}").stdout
        assert told.count("job ") == 3
        entries = Ledger(cells.output_dir).read()
        assert [len(entry.folders) for entry in entries] == [3, 3, 1]
        assert {run["cluster"] for run in cells.status().values()} == {"cluster"}
        # The limit of two holds over all of them: each array waits for the one before.
        for before, after in itertools.pairwise(entries):
            shown = slurm("scontrol", "show", "job", str(after.job_id))
            assert f"afterany:{before.job_id}_*" in shown
        cells.clear()


def test_the_bench_counts_the_calls_that_arrays_need(cells: Cells) -> None:
    with configured("MaxArraySize=1001", "MaxArraySize=3"):
        measured = bench_submit(str(cells.describe()), cells=7, rounds=1)
    assert measured.max_array_size == 3
    (submitted,), (looked,), (settled,) = measured.submit, measured.status, measured.settle
    assert submitted.count("sbatch") == measured.needed_sbatch_calls == 3
    assert looked.count("squeue") + looked.count("sacct") <= 2
    assert settled.count("squeue") + settled.count("sacct") <= 2
    assert not cells.jobs()


def test_the_setup_of_a_job_that_fails(cells: Cells) -> None:
    cells.describe(python="/nowhere/python")
    cells.submit(*QUICK)
    wait_until("the end", lambda: not cells.jobs())
    (seen,) = cells.status().values()
    assert seen["state"] == "failed"
    assert "/nowhere/python" in seen["reason"], seen
