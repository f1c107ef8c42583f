"""`status` marks a run that has not written for long, on any machine and whatever the scheduler says."""

import json
import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from jobs.cluster import slurm_commands
from jobs.cluster.ledger import Ledger, new_submission
from jobs.cluster.overview import SILENT_S, overview
from jobs.cluster.slurm_commands import SlurmError
from jobs.commands.status_view import details
from suite.record import RecordWriter
from tests.helpers.flights import leave
from tests.helpers.runs import make_run


@pytest.mark.parametrize("silent_s", [SILENT_S - 60, SILENT_S + 60])
@pytest.mark.parametrize("host", ["here", "elsewhere"])
@pytest.mark.parametrize("slurm", ["says it runs", "does not answer", "is not used"])
def test_a_run_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent_s: float, host: str, slurm: str
) -> None:
    run = make_run()
    ledger = Ledger(tmp_path)
    entry = new_submission("x", {"scheduler": "slurm"}, tmp_path, tmp_path, [run.folder_name])
    if slurm != "is not used":
        with ledger.held():
            ledger.accepted(entry, "12")

    def ask(command: str, *_: str) -> str:
        if slurm == "does not answer":
            raise SlurmError("Unable to contact slurm controller")
        return f"12|RUNNING|None|n1|{entry.name}\n" if command == "squeue" else ""

    monkeypatch.setattr(slurm_commands, "ask", ask)
    with RecordWriter(run, tmp_path / run.folder_name) as record:
        record.start({"scheduler_job": "12"})
        content = json.loads(record.paths.status.read_text())
        content["updated_at"] = time.time() - silent_s
        if host == "elsewhere":
            content["host"] = "another-machine"
        record.paths.status.write_text(json.dumps(content))
        os.utime(record.paths.status, (content["updated_at"],) * 2)
        (seen,) = overview(tmp_path).runs  # the lock is held, as this machine sees it
        is_silent = silent_s > SILENT_S
        assert seen.state == "running"
        assert ("has written nothing for 6 minutes: it may hang" in seen.reason) is is_silent
    leave(record.paths, ["n1", "n2"], {}, {0: 6, 1: 7})  # what its ranks note while they wait
    (seen,) = overview(tmp_path).runs  # the lock is not held, as another machine may see it
    if host == "elsewhere" and slurm != "is not used":
        assert seen.state == "running"
        waited = "the others have waited for rank 0 on n1 for 480 s"
        assert (f"has written nothing for 6 minutes: {waited}" in seen.reason) is is_silent
        assert ("`shiftbench status RUN`" in seen.reason) is is_silent


def test_the_places_of_a_run_that_hangs_are_shown_while_it_does(tmp_path: Path) -> None:
    run = make_run()
    with RecordWriter(run, tmp_path / run.folder_name) as record:
        record.start({})
        leave(record.paths, ["n1", "n2"], {}, {0: 6, 1: 7})
        (seen,) = overview(tmp_path).runs
        assert (seen.state, seen.hang) == ("running", None)  # it writes
        content = json.loads(record.paths.status.read_text())
        content["updated_at"] = time.time() - SILENT_S - 60
        record.paths.status.write_text(json.dumps(content))
        os.utime(record.paths.status, (content["updated_at"],) * 2)
        found = overview(tmp_path)
    (seen,) = found.runs
    assert seen.state == "running"
    assert seen.hang is not None
    assert [stall.step for stall in seen.hang.stalls.values()] == [6, 7]
    console = Console(width=300)
    with console.capture() as capture:
        console.print(details(seen, found.notes))
    assert "epoch 2, step 6, training: rank 0 on n1" in capture.get()
    assert 'File "loop.py", line 0, in advance' in capture.get()


def test_a_node_whose_clock_is_an_hour_behind_is_not_silent(tmp_path: Path) -> None:
    """It writes every few seconds, which the file system's clock shows."""
    run = make_run()
    with RecordWriter(run, tmp_path / run.folder_name) as record:
        record.start({})
        content = json.loads(record.paths.status.read_text())
        record.paths.status.write_text(json.dumps({**content, "updated_at": time.time() - 3600}))
        (seen,) = overview(tmp_path).runs
        assert (seen.state, seen.reason) == ("running", "")
