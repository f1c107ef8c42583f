"""Output folders with runs of several users and launchers: what each may see, cancel and submit again."""

import getpass
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.cluster import control, slurm_backend
from jobs.cluster.backend import ActiveJob, RunStatus
from jobs.cluster.ledger import Ledger, Submission, new_submission
from jobs.cluster.overview import active_jobs, overview
from reports.collect import collect
from reports.frames import build_frames
from reports.tables.run_list import run_list
from reports.tables.table import Table
from suite.config import expand
from suite.errors import UserError
from suite.experiment import Run
from suite.record import RecordWriter
from tests.helpers.command_line import shiftbench
from tests.helpers.records import write_run
from tests.helpers.runs import CONFIG, make_run
from tests.helpers.slurm_answers import SLURM, answers


def write_queued(ledger: Ledger, user: str, job_id: str) -> tuple[Run, Submission]:
    """Enter a queued run of this user."""
    run = expand({"model": {"arch": "small_resnet11"}, "data": {"name": "fashion-mnist-7k"}}, "x").runs[0]
    with ledger.held():
        one = new_submission("x", SLURM, ledger.output_dir, ledger.output_dir, [run.folder_name])
        one = replace(one, user=user, job_id=job_id)
        ledger.write(one)
    with RecordWriter(run, ledger.output_dir / run.folder_name) as record:
        record.queue(submission=one.token)
    return run, one


@pytest.mark.parametrize(("user", "job"), [("alice", "12 of alice"), (getpass.getuser(), None)])
def test_jobs_of_others_that_slurm_does_not_show(
    user: str, job: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PrivateData=jobs: an empty queue says nothing of them."""
    answers(monkeypatch, "")
    ledger = Ledger(tmp_path)
    run, _ = write_queued(ledger, user, "12")
    assert active_jobs(ledger).get(run.folder_name) == (None if job is None else ActiveJob(job))
    (seen,) = overview(tmp_path).runs
    assert seen.state == ("failed" if job is None else "queued")
    # Another submission continued the run and stopped: the first job no longer counts.
    with RecordWriter(run, tmp_path / run.folder_name) as record:
        record.queue(submission="another")
        record.status("preempted")
    assert run.folder_name not in active_jobs(ledger)


def test_runs_of_other_users_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path)
    _, theirs = write_queued(ledger, "alice", "12")
    (ledger.folder / f"{theirs.token}.json").chmod(0o664)
    asked = answers(monkeypatch, f"12|RUNNING|None|n1|{theirs.name}\n")
    seen = overview(tmp_path).runs
    assert control.cancel_runs(seen, seen, ledger, named=False) == []
    with pytest.raises(UserError, match="was submitted by alice, who can cancel it"):
        control.cancel_runs(seen, seen, ledger, named=True)
    assert not [command for command in asked if command[0] == "scancel"]
    failed = [replace(run, state="failed") for run in seen]
    assert control.to_retry(failed, None, ledger, named=False) == ([], [])
    chosen, obstacles = control.to_retry(failed, None, ledger, named=True)
    assert (chosen, len(obstacles)) == ([], 1)
    assert "was submitted by alice; choose a cluster" in obstacles[0]
    assert control.to_retry(failed, "gpu", ledger, named=True) == (failed, [])


def test_a_run_that_cannot_be_retried_does_not_block_the_others(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    run, one = write_queued(ledger, getpass.getuser(), "12")
    folder = tmp_path / run.folder_name
    mine = RunStatus(folder, "failed", "", "12", one)
    removed = RunStatus(tmp_path / "gone-123456789abc", "failed", "", "13", one)
    never = RunStatus(folder, "failed", "")
    chosen, obstacles = control.to_retry([mine, removed], None, ledger, named=False)
    assert chosen == [mine]
    assert obstacles == [f"{removed.folder}: was removed; submit its experiment again"]
    assert "was not submitted to a cluster" in control.to_retry([never], None, ledger, named=False)[1][0]
    assert control.resubmissions([mine], "local")[0][0][2] == [run]


def test_a_launcher_elsewhere_is_not_said_to_be_cancelled(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with ledger.held():
        one = new_submission("x", {"scheduler": "local"}, tmp_path, tmp_path, ["x"])
        one = replace(one, host="login1", job_id="12@345")
        ledger.write(one)
    run = RunStatus(tmp_path / "x", "running", "", "12@345", one)
    with pytest.raises(UserError, match="runs on login1: cancel there"):
        control.cancel_runs([run], [run], ledger, named=True)
    assert control.cancel_runs([run], [run], ledger, named=False) == []


def test_an_entry_must_have_the_name_of_its_token(tmp_path: Path) -> None:
    """Otherwise a colleague's file with my entry's token would be executed as mine."""
    ledger = Ledger(tmp_path)
    _, one = write_queued(ledger, getpass.getuser(), "12")
    text = (ledger.folder / f"{one.token}.json").read_text()
    (ledger.folder / "zzz.json").write_text(text)
    found, (bad,) = ledger.scan()
    assert [entry.token for entry in found] == [one.token]
    assert "zzz.json: not an entry of this name" in bad.sentence


@pytest.mark.parametrize("umask", [0o022, 0o077])
@pytest.mark.parametrize(("mode", "is_shared"), [(0o2775, True), (0o755, False)])
def test_a_group_can_submit_whatever_the_umask(
    mode: int, is_shared: bool, umask: int, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    runs.chmod(mode)
    former = os.umask(umask)
    try:
        with Ledger(runs).held():
            pass
    finally:
        os.umask(former)
    folder = runs / ".shiftbench"
    for path in (folder / "submissions", folder / "lock"):
        assert bool(path.stat().st_mode & 0o020) is is_shared
        assert path.stat().st_gid == runs.stat().st_gid
    # It holds the folders of jobs, which no other user may replace.
    assert stat.S_IMODE(folder.stat().st_mode) & 0o777 == 0o755


@contextmanager
def as_nobody() -> Iterator[None]:
    """Do something as an account that owns nothing."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.getuid() != 0, reason="NOT ROOT: only root can become another account")
def test_what_a_colleague_cannot_read_is_named_and_the_others_are_shown() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to others
        Path(folder).chmod(0o755)
        root = Path(folder) / "runs"
        open_to_all, closed = (make_run(seeds=[seed]) for seed in (0, 1))
        for run in (open_to_all, closed):
            write_run(root, run, esm_sigma=[1.0], layers=["bn1"], total_steps=24)
        with Ledger(root).held():
            for run in (open_to_all, closed):
                entry = new_submission("x", {"scheduler": "local"}, root, root, [run.folder_name])
                entry = Ledger(root).accepted(entry, "12@345")
        (root / closed.folder_name).chmod(0o700)
        hidden = Ledger(root).folder / f"{entry.token}.json"
        hidden.chmod(0o600)
        (config := Path(folder) / "x.yaml").write_text(CONFIG)
        env = {"XDG_CACHE_HOME": str(Path(folder) / "cache"), "COLUMNS": "400"}
        # What is imported on the way may be where nobody can read.
        shiftbench("submit", config, "--dry-run", "--output-dir", root, **env)
        listed(root, cache := Path(folder) / "collected")
        (root / open_to_all.folder_name / "log.txt").write_text("step 24\n")
        with as_nobody():
            status = shiftbench("status", "--output-dir", root, **env)
            logs = shiftbench("logs", open_to_all.folder_name, "--output-dir", root, **env)
            dry = shiftbench("submit", config, "--dry-run", "--output-dir", root, **env)
        assert (status.returncode, "1 completed" in status.stdout) == (0, True), status
        said = status.stdout + status.stderr
        for path in (root / closed.folder_name, hidden):
            (line,) = (line for line in said.splitlines() if str(path) in line)
            assert line.endswith("Permission denied")
        assert (logs.returncode, "step 24" in logs.stdout) == (0, True), logs
        assert dry.returncode == 3, dry
        assert f"{closed.folder_name} was not submitted: {root / closed.folder_name}" in dry.stderr
        assert f"[0]       {make_run(seeds=[2]).folder_name}" in dry.stdout
        with as_nobody():
            theirs = listed(root, cache)  # a cache that is another user's
            anew = listed(root, None)
        assert theirs.texts == anew.texts
        assert [row[2] for row in anew.texts] == ["unreadable", "completed"]


def listed(root: Path, cache: Path | None) -> Table:
    """The table of runs, with links, of a report."""
    found = collect([root], cache)
    return run_list(build_frames(found), found.skipped, root.parent)


def test_a_failed_run_whose_job_slurm_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node failed; the first rank, on another node, could only record a lost connection."""
    ledger = Ledger(tmp_path)
    run, one = write_queued(ledger, getpass.getuser(), "12")
    with RecordWriter(run, tmp_path / run.folder_name) as record:
        record.start({"scheduler_job": "12"})
        record.status("failed", reason="connection closed by peer")
    answers(monkeypatch, f"12|PENDING|BeginTime||{one.name}\n")
    (seen,) = overview(tmp_path).runs
    assert (seen.state, seen.reason) == ("queued", "BeginTime; connection closed by peer")
    assert active_jobs(ledger) == {run.folder_name: ActiveJob("12")}
    asked = answers(monkeypatch, "")
    (seen,) = overview(tmp_path).runs
    assert (seen.state, seen.reason) == ("failed", "connection closed by peer")
    assert [command[0] for command in asked] == ["squeue"]  # and not sacct: how it ended is known
    monkeypatch.setattr(slurm_backend, "LONGEST_RETURN_S", 0.0)
    asked.clear()
    overview(tmp_path)
    assert asked == []
    with RecordWriter(run, tmp_path / run.folder_name) as record:
        os.utime(record.paths.status, (time.time() - 5,) * 2)
        record.start({"scheduler_job": "12"})
        assert 4 < record.detail("queue_wait_s") < 60  # counts as any other wait
        waited_s = record.detail("queue_wait_s")
        record.status("failed", reason="again")
        record.start({"scheduler_job": "13"})
        assert record.detail("queue_wait_s") == waited_s


def test_only_ones_own_entries_are_executed_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    former = os.umask(0o002)
    try:
        with ledger.held():
            one = new_submission("x", SLURM, tmp_path, tmp_path, ["x"])
            ledger.write(one)
    finally:
        os.umask(former)
    assert ledger.is_ours(one)
    path = ledger.folder / f"{one.token}.json"
    path.chmod(0o664)
    assert not ledger.is_ours(one)
    path.write_text(path.read_text().replace("null", '"--user=alice"'))
    found, (bad,) = ledger.scan()
    assert found == []
    assert "job_id: expected a job's id or null, found '--user=alice'" in bad.sentence
