"""Restarts: what they cost, who may write, and what ranks died of."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from suite.config import expand
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import RankError, Record, RecordWriter, errors_noted, read_status
from suite.record.status import SILENCE_S
from tests.helpers.records import written_before

ROOT = Path(__file__).parent.parent
DAY_S = 86_400


@pytest.fixture
def run() -> Run:
    return expand({"model": {"arch": "small_resnet11"}, "data": {"name": "fashion-mnist-7k"}}, "tiny").runs[0]


def at(patch: pytest.MonkeyPatch, seconds: float) -> None:
    patch.setattr(time, "time", lambda: seconds)


def test_costs_add_up_over_attempts(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"scheduler_job": "12", "world_size": 4}
    at(monkeypatch, 1000)
    with RecordWriter(run, tmp_path) as record:
        record.queue()
    written_before(tmp_path, 30)
    # Waits for 30 s, trains for 50 s on 4 ranks of a node that is a day ahead, up to step 17, is killed.
    at(monkeypatch, 1030 + DAY_S)
    with RecordWriter(run, tmp_path) as record:
        record.start(job)
        record.resume(0, [])
        at(monkeypatch, 1080 + DAY_S)
        record.status("running", step=17)
    written_before(tmp_path, 20)
    at(monkeypatch, 1100)  # Slurm starts it elsewhere after 20 s; the newest checkpoint is of step 10
    with RecordWriter(run, tmp_path) as record:
        record.start(job)
        record.resume(10, [])
        at(monkeypatch, 1105)
        record.status("failed", reason="why")
    at(monkeypatch, 5000)  # retried much later: what lies between is nobody's wait
    with RecordWriter(run, tmp_path) as record:
        record.queue()
    written_before(tmp_path, 3)
    at(monkeypatch, 5003)
    with RecordWriter(run, tmp_path) as record:
        record.start({**job, "world_size": 2})
        record.resume(10, [])
        at(monkeypatch, 5013)
        record.status("completed")
    status = Record.read(tmp_path).status
    assert status["attempts"] == 3
    assert status["queue_wait_s"] == pytest.approx(30 + 20 + 3, abs=3)
    assert status["lost_steps"] == 7
    assert status["rank_s"] == 50 * 4 + 5 * 4  # of the attempts before this one
    assert (status["started_at"], status["updated_at"], status["world_size"]) == (5003, 5013, 2)
    waits = [line["queue_wait_s"] for line in Record.read(tmp_path).provenance]
    assert waits == pytest.approx([30, 20, 3], abs=1)


@pytest.mark.parametrize(("ahead_s", "words"), [(DAY_S, "1440 min ahead of"), (-DAY_S, "1440 min behind")])
def test_a_node_with_another_clock_is_named(
    ahead_s: float, words: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RecordWriter(run, tmp_path) as record:
        record.start({"scheduler_job": "12"})
        assert read_status(RunPaths(tmp_path)).notes == []
        at(monkeypatch, time.time() + ahead_s)
        record.status("running", step=1)
        monkeypatch.undo()
        (note,) = read_status(RunPaths(tmp_path)).notes
    assert f"clocks differ: that of {socket.gethostname()} is {words} the file system's" in note


def test_without_a_scheduler_nothing_waits(run: Run, tmp_path: Path) -> None:
    for _ in range(2):
        with RecordWriter(run, tmp_path) as record:
            record.start({"scheduler_job": None})
    assert "queue_wait_s" not in Record.read(tmp_path).status


HOLDER = """
import sys, time
from pathlib import Path
from suite.record import Record, RecordWriter
from tests.helpers.records import written_before
folder = Path(sys.argv[1])
with RecordWriter(Record.read(folder).run, folder) as record:
    record.start({})
    print("held", flush=True)
    while not record.is_claimed():
        time.sleep(0.05)
    record.status("preempted", reason="a newer start")
"""


def test_a_newer_start_takes_over_from_one_that_leaves(run: Run, tmp_path: Path) -> None:
    with RecordWriter(run, tmp_path):
        pass
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as older:
        assert older.stdout is not None
        assert older.stdout.readline() == "held\n"
        with RecordWriter(run, tmp_path, claim="job 12 start 1", patience_s=60) as record:
            assert record.detail("state") == "preempted"
            assert not RunPaths(tmp_path).claim.exists()
            assert not record.is_claimed()
    assert older.returncode == 0


def test_the_earliest_rank_to_die_is_the_reason(run: Run, tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    with RecordWriter(run, tmp_path) as record:
        record.start({})
        for rank, error in (
            (2, ValueError("the cause")),
            (0, RuntimeError("Connection closed by peer [n2]")),
        ):
            with pytest.raises(type(error)), errors_noted(paths, rank), errors_noted(paths, rank):
                raise error
        record.status("failed", reason="what the first rank saw")
    read = Record.read(tmp_path)
    assert [error.rank for error in read.errors] == [2, 0]
    assert read.reason is not None
    assert read.reason.endswith(": ValueError: the cause")
    assert "Traceback" in read.errors[0].traceback
    with RecordWriter(run, tmp_path) as record:
        record.forget_errors()
        record.start({})
        record.status("failed", reason="another one")
    assert Record.read(tmp_path).reason == "another one"


def test_a_lost_rank_is_named_as_such() -> None:
    lost = RankError(0, "n1", 1.0, "RuntimeError: …", "… Connection closed by peer [10.0.0.2]")
    assert str(lost).startswith("a rank was lost (killed, or its node failed), as rank 0 on n1 noticed")


@pytest.mark.parametrize(
    ("host", "age_s", "state"), [("elsewhere", 5, "running"), ("elsewhere", 500, "failed")]
)
def test_a_run_on_another_machine_is_alive_while_it_updates_its_status(
    run: Run, tmp_path: Path, host: str, age_s: float, state: str
) -> None:
    """A lock is not always seen from another machine."""
    with RecordWriter(run, tmp_path) as record:
        record.start({})
    content: dict[str, Any] = json.loads((tmp_path / "status.json").read_text())
    content |= {"host": host, "updated_at": time.time() - age_s}
    (tmp_path / "status.json").write_text(json.dumps(content))
    os.utime(tmp_path / "status.json", (content["updated_at"],) * 2)
    assert age_s < SILENCE_S or state == "failed"
    assert read_status(RunPaths(tmp_path)).state == state
