"""What Slurm refuses, does not answer, or limits: clear messages, and no job twice."""

import itertools
import os
import shutil
import signal
from pathlib import Path

import pytest

from benchmarks.submit import bench_submit
from jobs.cluster.ledger import Ledger
from tests.cluster import testcluster
from tests.helpers.cells import QUICK, Cells, configured, slurm, wait_until

pytestmark = pytest.mark.timeout(900)


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
    assert [run["state"] for run in cells.status().values()] == ["completed"]
    cells.describe(step_s=0.1)
    cells.submit("data.train_images=3200", "seeds=[7]")
    wait_until("the run", lambda: cells.record().get("state") == "running")
    slurm("scancel", "--signal=KILL", f"{cells.job()}.0")
    wait_until("the end", lambda: not cells.jobs())
    seen = cells.call("status")
    assert seen.returncode == 0, seen.stderr
    assert "sacct does not answer" in seen.stdout
    assert "1 failed" in seen.stdout
    testcluster.up()


def shim(folder: Path, script: str) -> dict[str, str]:
    """An environment in which sbatch is this script; $REAL is the real one."""
    folder.mkdir()
    path = folder / "sbatch"
    path.write_text(f"#!/bin/sh\nREAL={shutil.which('sbatch')}\n{script}\n")
    path.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_sbatch_cannot_reach_the_controller(cells: Cells, tmp_path: Path) -> None:
    """It stopped between the first query and the submission."""
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
    # It did: the jobs are found by their name, run, and are not submitted twice.
    assert "0 submitted, 2 queued already" in cells.submit(*QUICK, "seeds=[0, 1]").stdout
    assert len(cells.jobs()) == 2
    for run in cells.runs:
        cells.wait_for_state("completed", run)


def test_an_array_is_split_at_the_sites_limit(cells: Cells) -> None:
    with configured("MaxArraySize=1001", "MaxArraySize=3"):
        cells.describe(array_parallelism=2, additional_parameters={"hold": True})
        printed = cells.submit(*QUICK, f"seeds={list(range(7))}").stdout
        assert printed.count("job ") == 3
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
