"""How a job's task asks Slurm to start it again."""

import time
from pathlib import Path
from typing import Any

import pytest

from jobs.cluster import task
from jobs.cluster.slurm_commands import SlurmError
from suite.config import expand
from suite.errors import UserError
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import RecordWriter, read_status


def requeued(
    run: Run, folder: Path, patch: pytest.MonkeyPatch, said: str | None, job_state: str = "RUNNING"
) -> dict[str, Any]:
    """The record after a warning before the first step, and Slurm's answers in 0.05 s."""
    asked: list[tuple[str, ...]] = []

    def answer(*command: str, timeout_s: float) -> str:
        asked.append(command)
        if said is not None:
            raise SlurmError(said)
        return ""

    patch.setattr(task, "ask", answer)
    patch.setattr(task, "shown_job", lambda *_, **__: {"JobState": job_state})
    patch.setenv("SHIFTBENCH_TO_REQUEUE", str(folder / "to_requeue"))
    patch.setattr(task, "REQUEUE_POLL_S", 0.01)
    for name, value in {"JOB_ID": "12", "ARRAY_JOB_ID": "12", "ARRAY_TASK_ID": "3"}.items():
        patch.setenv(f"SLURM_{name}", value)
    with RecordWriter(run, folder) as record:
        record.start({})
        record.resume(5, [])
        record.status("preempted", reason="stopped after step 5")
    task._requeue(run, folder, time.monotonic() + 0.05)
    content: dict[str, Any] = read_status(RunPaths(folder)).content
    return content | {"asked": asked}


def test_a_warned_run_is_requeued_until_it_proves_fruitless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = expand({"model": {"arch": "small_resnet11"}, "data": {"name": "fashion-mnist-7k"}}, "x").runs[0]
    for _ in range(2):
        after = requeued(run, tmp_path, monkeypatch, None)
        # The task of the array alone: `12`, its SLURM_JOB_ID, would start all of them again.
        assert after["asked"] == [("scontrol", "requeue", "12_3")]
        assert after["state"] == "preempted"
    after = requeued(run, tmp_path, monkeypatch, None)
    assert after["asked"] == []
    assert after["state"] == "failed"
    assert "came 3 times in a row before a step was done" in after["reason"]


def test_a_refused_requeue_is_written_into_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = expand({"model": {"arch": "small_resnet11"}, "data": {"name": "fashion-mnist-7k"}}, "x").runs[0]
    after = requeued(run, tmp_path, monkeypatch, "Requeue disabled")
    assert after["reason"] == (
        "stopped after step 5; it could not be requeued yet: Requeue disabled; if its job does not return to "
        "the queue, `shiftbench retry` submits it again"
    )
    assert (tmp_path / "to_requeue").exists()  # by which the job's script goes on


@pytest.mark.parametrize("said", ["Unexpected message received for job 12", "Protocol authentication error"])
def test_a_requeue_is_asked_for_again_whatever_slurm_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    run = expand({"model": {"arch": "small_resnet11"}, "data": {"name": "fashion-mnist-7k"}}, "x").runs[0]
    assert len(requeued(run, tmp_path, monkeypatch, said)["asked"]) > 1
    (tmp_path / "to_requeue").unlink()
    # An earlier request has taken effect, although its answer was lost.
    after = requeued(run, tmp_path, monkeypatch, said, job_state="PENDING")
    assert len(after["asked"]) == 1
    assert after["reason"] == "stopped after step 5"
    assert not (tmp_path / "to_requeue").exists()


def test_where_there_is_no_scontrol_the_script_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = expand({"model": {"arch": "small_resnet11"}, "data": {"name": "fashion-mnist-7k"}}, "x").runs[0]
    after = requeued(run, tmp_path, monkeypatch, "scontrol is not on the PATH: log in to a Slurm cluster")
    assert (len(after["asked"]), after["state"]) == (1, "preempted")
    assert after["reason"] == "stopped after step 5"
    assert (tmp_path / "to_requeue").read_text() == ""


def test_missing_sources_are_named_also_where_others_do_not_know_the_run(tmp_path: Path) -> None:
    """Python then imports the installed checkout, which may be of another version."""
    job = task.TrainTask('{"a_field_of_later": 1}', str(tmp_path / "run"), str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"gone: the sources .* were removed; submit it again"):
        job()
