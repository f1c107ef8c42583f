"""Arrays that Slurm lists as a whole: every run gets its end."""

from pathlib import Path

import pytest

from jobs.cluster import slurm_commands
from jobs.cluster.ledger import Ledger, new_submission
from jobs.cluster.overview import active_jobs, overview
from suite.config import expand
from suite.record import Record, RecordWriter, State

TINY = {
    "model": {"arch": "small_resnet11"},
    "data": {"name": "fashion-mnist-7k", "image_size": 28},
    "seeds": [0, 1],
}


@pytest.mark.parametrize("who_knows", ["squeue", "sacct"])
def test_an_array_that_was_cancelled_before_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who_knows: str
) -> None:
    """Slurm 22.05 lists it under its own id, and no task of it."""
    runs = expand(TINY, "tiny").runs
    ledger = Ledger(tmp_path)
    entry = new_submission(
        "tiny", {"scheduler": "slurm"}, tmp_path, tmp_path, [run.folder_name for run in runs]
    )
    with ledger.held():
        ledger.accepted(entry, "12")
    for run in runs:
        with RecordWriter(run, tmp_path / run.folder_name) as record:
            record.queue()
    answers = {
        "squeue": f"12|CANCELLED|JobHeldUser||{entry.name}\n",
        "sacct": f"12|CANCELLED by 0|0:0||{entry.name}\n",
    }
    monkeypatch.setattr(slurm_commands, "ask", lambda name, *_: answers[name] if name == who_knows else "")
    assert [(run.state, run.reason) for run in overview(tmp_path).runs] == [
        ("cancelled", "job 12_0 was cancelled"),
        ("cancelled", "job 12_1 was cancelled"),
    ]
    assert [Record.read(tmp_path / run.folder_name).state for run in runs] == ["cancelled", "cancelled"]


@pytest.mark.parametrize(
    ("recorded", "job", "state", "expected"),
    [
        ("running", "12", "COMPLETING", True),  # after scancel, while it writes its checkpoint
        ("queued", None, "COMPLETING", True),  # in its set-up
        ("preempted", "12", "COMPLETING", True),
        ("failed", "12", "COMPLETING", True),
        ("preempted", "12", "RUNNING", True),  # its script is about to end
        ("failed", "12", "RUNNING", True),  # a rank has failed, and srun ends the others
        ("preempted", "11", "RUNNING", False),  # by another job, and this one starts
        ("queued", None, "RUNNING", False),
        ("preempted", "12", "PENDING", False),  # it was requeued
        ("failed", "12", "REQUEUED", False),
        ("preempted", "12", "CANCELLED", False),
    ],
)
def test_a_job_that_is_ending(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recorded: State,
    job: str | None,
    state: str,
    expected: bool,
) -> None:
    """`retry` and `submit` wait for its end, and neither leaves the run alone."""
    run = expand(TINY, "tiny").runs[0]
    ledger = Ledger(tmp_path)
    entry = new_submission("tiny", {"scheduler": "slurm"}, tmp_path, tmp_path, [run.folder_name])
    with ledger.held():
        ledger.accepted(entry, "12")
    with RecordWriter(run, tmp_path / run.folder_name) as record:
        record.queue()
        if job is not None:
            record.start({"scheduler_job": job})
        record.status(recorded)
        monkeypatch.setattr(slurm_commands, "ask", lambda *_: f"12|{state}|None|n1|{entry.name}\n")
        (seen,) = overview(tmp_path).runs
        active = active_jobs(ledger)
    assert seen.is_ending is expected
    assert [one.is_ending for one in active.values()] == ([] if state == "CANCELLED" else [expected])


def test_a_task_with_an_entry_of_its_own_keeps_it() -> None:
    own, whole = slurm_commands.JobState("12_0", "COMPLETED"), slurm_commands.JobState("12", "CANCELLED")
    listed = slurm_commands.for_each(["12_0", "12_1", "13"], {"12_0": own, "12": whole})
    assert listed == {"12_0": own, "12_1": whole, "12": whole}


@pytest.mark.parametrize(
    ("said", "is_so"),
    [
        ("JobState=RUNNING StartTime=2026-11-24T10:47:53 PreemptTime=2026-11-24T10:47:56", True),
        ("JobState=RUNNING StartTime=2026-11-24T10:47:53 PreemptTime=None", False),
        ("JobState=RUNNING StartTime=2026-11-24T10:47:53", False),
        # Of the start before this one.
        ("JobState=RUNNING StartTime=2026-11-24T10:57:53 PreemptTime=2026-11-24T10:47:56", False),
        # Requeued by Slurm itself.
        ("JobState=COMPLETING StartTime=2026-11-24T10:47:53 PreemptTime=2026-11-24T10:47:56", False),
    ],
)
def test_a_job_that_is_being_preempted(said: str, is_so: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_commands, "ask", lambda *_, **__: f"JobId=1 JobName=x y {said} Deadline=N/A\n")
    assert slurm_commands.is_preempted("1") is is_so


def test_a_job_without_a_reason_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = "7|SUSPENDED|None|n1|x\n8|PENDING|Priority||x\n"
    monkeypatch.setattr(slurm_commands, "ask", lambda *_: listed)
    jobs = slurm_commands.queue(["x"])
    assert [jobs["7"].reason, jobs["8"].reason] == ["", "Priority"]
