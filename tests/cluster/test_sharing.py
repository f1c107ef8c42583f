"""Two users on one output folder, interrupted submissions, and folders or sources that change meanwhile."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.cluster.ledger import Ledger
from tests.helpers.cells import QUICK, ROOT, Cells, slurm, wait_until

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def shared(cluster: None) -> Iterator[Cells]:
    """Cells in a folder that other accounts can read, with an output folder that their group can write."""
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
    printed = sorted(process.communicate(timeout=100)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0], printed
    assert "0 submitted, 4 queued already" in printed[0]
    assert "4 submitted" in printed[1]
    assert len(shared.jobs()) == 4
    (entry,) = Ledger(shared.output_dir).read()
    assert entry.user in ("nobody", "daemon")


def submit_as(user: str, cells: Cells) -> "subprocess.Popen[str]":
    """Submit held jobs as another account, which may read the checkout wherever it is."""
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
    # The job is found in the queue by its name.
    assert "0 submitted, 2 queued already" in cells.submit(*QUICK, "seeds=[0, 1]").stdout
    assert {run["job"] for run in cells.status().values()} == {f"{entry.job_id}_0", f"{entry.job_id}_1"}


def test_a_folder_removed_while_its_job_waits(cells: Cells) -> None:
    cells.describe(additional_parameters={"hold": True})
    cells.submit(*QUICK)
    folder = cells.paths().folder
    shutil.rmtree(folder)
    ((seen, *_),) = [list(cells.status().values())]
    assert seen["state"] == "queued"
    slurm("scontrol", "release", cells.job())
    cells.wait_for_state("completed")
    assert "was removed while the job waited" in (folder / "log.txt").read_text() + cells.logs()


def test_a_job_whose_copy_of_the_sources_is_gone_or_changed_fails_with_that_reason(cells: Cells) -> None:
    """The checkout, which is installed in the environment of its Python, would be trained with otherwise."""
    cells.describe(additional_parameters={"hold": True})
    for done, (seed, word) in enumerate([(0, "changed"), (1, "removed")]):
        cells.submit(*QUICK, f"seeds=[{seed}]")
        (copy,) = (path.parent for path in cells.output_dir.glob(".shiftbench/*/code/*/suite"))
        if word == "changed":
            (copy / "suite" / "paths.py").open("a").write("# edited\n")
        else:
            shutil.rmtree(copy)
        slurm("scontrol", "release", cells.job())
        cells.wait_for_state("failed")
        said = f"{copy}: the sources that this job was submitted with were {word}; submit it again"
        assert cells.record()["reason"] == said
        assert len(cells.status()) == done + 1
        wait_until("the end", lambda: not cells.jobs())
    # Submitting again copies the sources anew.
    cells.describe()
    assert (
        "2 submitted"
        in cells.call("retry", "--failed", "--cluster", str(cells.folder / "cluster.yaml")).stdout
    )
    cells.wait_for_state("completed")


def test_sources_edited_while_a_job_waits_change_nothing(cells: Cells, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for package in ("suite", "jobs", "reports"):
        shutil.copytree(ROOT / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
    # The set-up changes the import path, as a line of `module load` might.
    elsewhere = f"export PYTHONPATH=$PYTHONPATH:{checkout}"
    cells.describe(additional_parameters={"hold": True}, setup=[elsewhere])
    command = [sys.executable, "-m", "jobs.cli", "submit", str(cells.config), *QUICK]
    command += ["--cluster", str(cells.folder / "cluster.yaml"), "--output-dir", str(cells.output_dir)]
    cells.overrides = QUICK
    env = os.environ | {"PYTHONPATH": str(checkout)}
    assert subprocess.run(command, cwd=checkout, env=env).returncode == 0
    (checkout / "suite" / "signals.py").write_text("raise RuntimeError('edited meanwhile')\n")
    slurm("scontrol", "release", cells.job())
    cells.wait_for_state("completed")
