"""The ledger, private folders, the snapshot of the sources, and what Slurm's answers mean."""

import errno
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.cluster import slurm_commands
from jobs.cluster import snapshot as snapshots
from jobs.cluster.backend import JobVerdict, settle
from jobs.cluster.ledger import Ledger, jobs_folder, new_submission, private_folder, who_else_can_write
from jobs.cluster.slurm_backend import SlurmBackend, of_job
from jobs.cluster.slurm_commands import JobState, SlurmError, accounting, ask, queue
from jobs.cluster.snapshot import snapshot, snapshot_name
from suite.config import expand
from suite.errors import UserError
from suite.paths import RunPaths
from suite.provenance import CodeState
from suite.record import RecordWriter, Status, read_status
from suite.record.status import is_alive
from tests.helpers.slurm_answers import SLURM, answers


def test_the_ledger_keeps_its_order_and_drops_refused_entries(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with ledger.held():
        one = new_submission("a b;$(c)", SLURM, tmp_path, tmp_path, ["x", "y"])
        one = ledger.write(
            replace(one, submitted_at=one.submitted_at + 3600)
        )  # another login machine's clock
        two = ledger.write(new_submission("two", SLURM, tmp_path, tmp_path, ["z"]))
    assert 0 < two.submitted_at - one.submitted_at < 1
    assert one.name == f"a-b-c-{one.token}"
    assert [entry.token for entry in ledger.read()] == [one.token, two.token]
    job_ids = SlurmBackend().job_ids
    assert job_ids(ledger.read()[0]) == {}
    assert job_ids(ledger.accepted(one, "12")) == {"x": "12_0", "y": "12_1"}
    assert job_ids(ledger.accepted(two, "13")) == {"z": "13"}
    ledger.drop(one)
    assert [entry.job_id for entry in ledger.read()] == ["13"]


def test_an_entry_of_a_newer_version_is_named_and_left_out(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with ledger.held():
        ledger.write(replace(new_submission("x", SLURM, tmp_path, tmp_path, ["x"]), schema_version=99))
    found, bad = ledger.scan()
    assert (found, len(bad)) == ([], 1)
    assert "written by a newer shiftbench; upgrade" in bad[0].sentence


def test_folders_that_others_can_write_are_refused(tmp_path: Path) -> None:
    home = private_folder(tmp_path / "jobs")
    assert home.stat().st_mode & 0o777 == 0o700
    assert who_else_can_write(home) is None
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o2775)
    with pytest.raises(UserError, match=r"shared can be written by others.*set jobs_folder"):
        private_folder(shared / "me")
    shared.chmod(0o3777)  # sticky: users cannot replace each other's files
    assert private_folder(shared / "mine")
    assert who_else_can_write(shared) is not None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, -1)
    with pytest.raises(UserError, match="belongs to another user"):
        private_folder(tmp_path / "theirs" / "mine")


def test_jobs_folders_are_beside_the_runs_only_where_no_other_user_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(home))
    mine, shared = tmp_path / "mine", tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o775)
    assert jobs_folder(mine, None).is_relative_to(mine / ".shiftbench")
    assert jobs_folder(shared, None) == home / ".shiftbench"
    assert jobs_folder(shared, "$HOME/other") == home / "other"
    with pytest.raises(UserError, match="can be written by others"):
        jobs_folder(mine, str(shared / "x"))


def test_a_snapshot_is_imported_and_knows_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "code_state", lambda: CodeState("0" * 40, True, "a patch\n"))
    folder = snapshot(tmp_path)
    assert folder == snapshot(tmp_path) == tmp_path / snapshot_name()
    assert not [path for path in folder.rglob("*") if "__pycache__" in path.parts]
    code = (
        "import suite, jobs, reports, json; from suite.provenance import code_state, provenance\n"
        "print(json.dumps([suite.__file__, jobs.__file__, code_state().patch, provenance('cpu', [])]))"
    )
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    suite_file, jobs_file, patch, origin = json.loads(done.stdout)
    assert Path(suite_file).is_relative_to(folder)
    assert Path(jobs_file).is_relative_to(folder)
    assert patch == "a patch\n"
    assert (origin["git_sha"], origin["git_dirty"], origin["snapshot"]) == ("0" * 40, True, folder.name)
    assert origin["patch"] == CodeState(None, None, "a patch\n").patch_name


def test_one_query_for_all_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "12_0|RUNNING|None|n1|a-1\n12_1|PENDING|Resources||a-1\nnonsense\n13|COMPLETED|None|n2|b-2\n"
    asked = answers(monkeypatch, text)
    found = queue(["b-2", "a-1", "a-1"])
    assert len(asked) == 1
    assert "--name=a-1,b-2" in asked[0]
    assert found["12_0"] == JobState("12_0", "RUNNING", "", "n1", "a-1")
    assert [job.is_active for job in found.values()] == [True, True, False]
    assert queue([]) == {}
    assert len(asked) == 1


def test_tasks_that_sacct_lists_together_get_an_entry_each(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "12_0|FAILED|127:0|n1|a\n12_[2-4,7%3]|CANCELLED by 0|0:0|None assigned|a\n13|FAILED|0:9|n2|b\n"
    answers(monkeypatch, text)
    found = accounting(["12", "13"])
    assert sorted(found) == ["12_0", "12_2", "12_3", "12_4", "12_7", "13"]
    assert found["12_0"].end == "FAILED, exit code 127"
    assert found["12_7"].end == "CANCELLED"
    assert found["13"].end == "FAILED, killed by signal 9"


def test_slurms_own_message_is_passed_on() -> None:
    with pytest.raises(SlurmError, match="no-such-command is not on the PATH"):
        ask("no-such-command")
    with pytest.raises(SlurmError, match=r"^it is; what it is$"):
        ask("sh", "-c", "echo 'it is' >&2; echo ' what it is ' >&2; exit 1")
    with pytest.raises(SlurmError, match="sleep did not answer in 0 s"):
        ask("sleep", "5", timeout_s=0.1)


def test_the_users_own_filters_hide_no_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_USERS", "me")
    monkeypatch.setenv("SACCT_FORMAT", "JobID")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    said = ask("env").splitlines()
    assert "SLURM_CONF=/etc/slurm.conf" in said
    assert not [line for line in said if line.startswith(("SQUEUE_", "SACCT_"))]


def test_a_folder_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with (
        pytest.raises(UserError, match=r"no locks \(No locks available\); choose an output folder"),
        Ledger(tmp_path).held(),
    ):
        pass
    assert not Ledger(tmp_path).is_held()
    # Without locks a run's record decides whether it lives.
    paths = RunPaths(tmp_path)
    paths.lock.touch()
    here = {"host": socket.gethostname(), "updated_at": time.time()}
    assert is_alive(paths, here)
    assert not is_alive(paths, {**here, "updated_at": 1.0})


@pytest.mark.parametrize(
    ("site", "size"),
    [
        ({}, 1001),
        ({"MaxArraySize": "501"}, 501),
        ({"MaxArraySize": "1001", "SchedulerParameters": "bf_interval=2,max_array_tasks=100,defer"}, 100),
        ({"MaxArraySize": "0"}, 1),
    ],
)
def test_the_largest_array_of_a_site(site: dict[str, str], size: int) -> None:
    assert slurm_commands.max_array_size(site) == size


NO_REASON = "job 1 is no longer in the queue and Slurm gives no reason; see `shiftbench logs`"


@pytest.mark.parametrize(
    ("state", "job", "expected"),
    [
        ("queued", JobState("1", "PENDING", "Priority"), ("queued", "Priority; said", False)),
        ("preempted", JobState("1", "PENDING", "BeginTime"), ("queued", "BeginTime; said", False)),
        ("queued", JobState("1", "RUNNING"), ("running", "its processes are starting, or ending", False)),
        ("running", JobState("1", "RUNNING"), ("running", "", False)),
        ("queued", JobState("1", "CANCELLED"), ("cancelled", "job 1 was cancelled; said", True)),
        ("preempted", JobState("1", "COMPLETED"), ("preempted", "said", False)),
        ("preempted", JobState("1", "TIMEOUT"), ("failed", "job 1: TIMEOUT; said", True)),
        ("running", JobState("1", "COMPLETED"), ("running", "said", False)),
        ("running", None, ("failed", NO_REASON, False)),
    ],
)
def test_a_record_and_its_job_together(
    state: Any, job: JobState | None, expected: tuple[Any, ...], tmp_path: Path
) -> None:
    one = new_submission("x", SLURM, tmp_path, tmp_path, ["x"])
    verdict = of_job(Status({"state": state, "reason": "said", "job": "1"}), one, "1", job)
    assert (verdict.state, verdict.reason, verdict.is_final) == expected


def test_a_run_that_was_continued_elsewhere_is_not_judged_by_its_old_job(tmp_path: Path) -> None:
    one = new_submission("x", SLURM, tmp_path, tmp_path, ["x"])
    status = Status({"state": "preempted", "reason": "by Ctrl-C", "job": None})
    assert of_job(status, one, "1", JobState("1", "FAILED")) == JobVerdict("preempted", "by Ctrl-C")
    queued = Status({"state": "queued"})
    assert of_job(queued, one, None, None).state == "failed"
    assert of_job(queued, one, None, None, is_being_submitted=True).reason == "being submitted"


def test_an_end_is_written_only_if_the_record_has_not_changed(tmp_path: Path) -> None:
    run = expand({"model": {"arch": "small_resnet11"}, "data": {"name": "fashion-mnist-7k"}}, "x").runs[0]
    with RecordWriter(run, tmp_path) as record:
        record.start({})
        record.status("running")
        looked = read_status(RunPaths(tmp_path))
        record.status("completed")
    settle(tmp_path, JobVerdict("failed", "job 1: COMPLETED"), looked)
    assert read_status(RunPaths(tmp_path)).state == "completed"
    settle(tmp_path, JobVerdict("failed", "job 1: TIMEOUT"), read_status(RunPaths(tmp_path)))
    assert read_status(RunPaths(tmp_path)).state == "failed"
