"""The end of a study's jobs, with a made-up queue, and of its processes: what ends, and what is reported."""

import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

import jobs.tune.cleanup
from jobs.cluster.ledger import Ledger, Submission, new_submission
from jobs.cluster.slurm_commands import JobState, SlurmError
from jobs.local import fork_client
from jobs.local.fork_client import ForkedProcess, own_server
from jobs.local.process import ProcessSpec
from jobs.tune.cleanup import cancel_orphans, end_jobs, end_processes
from jobs.tune.runners import DRIVER_VARIABLE
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import RecordWriter, State, read_stop_request
from tests.helpers.runs import make_run


class Site:
    """One run of the study `mine`, submitted as job 7. `queue`: its state at each look, the last for ever."""

    def __init__(self, output_dir: Path) -> None:
        self.output_dir = output_dir
        self.run = make_run()
        self.paths = RunPaths(output_dir / self.run.folder_name)
        self.queue = [""]
        self.commands: list[str] = []
        self.overviews: list[list[Path]] = []
        self.refuses = self.leaves_when_cancelled = False
        self.ledger = Ledger(output_dir)
        self.entry = self._submitted(self.run, job_id="7")

    def _submitted(self, run: Run, job_id: str | None) -> Submission:
        folders = [run.folder_name]
        cluster = {"scheduler": "slurm", "name": "cells"}
        entry = new_submission("mine", cluster, self.output_dir, self.output_dir, folders, "mine")
        entry = replace(entry, job_id=job_id)
        with self.ledger.held():
            self.ledger.write(entry)
        return entry

    def record(self, state: State, job: str = "7") -> None:
        with RecordWriter(self.run, self.paths.folder) as record:
            record.status(state, job=job)

    def seen(self, names: Iterable[str]) -> dict[str, JobState]:
        state = self.queue.pop(0) if len(self.queue) > 1 else self.queue[0]
        state = "" if self.leaves_when_cancelled and self.commands else state
        return {"7": JobState("7", state, name=self.entry.name)} if state else {}

    def ask(self, *command: str) -> str:
        self.commands.append(" ".join(command))
        if self.refuses:
            raise SlurmError("scancel: error: Invalid job id 7")
        return ""

    def end(self, is_forced: bool = False) -> None:
        end_jobs("mine", self.output_dir, "the end of the driver", is_forced)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    site = Site(tmp_path)
    for name, value in (("QUEUE_POLL_S", 0.01), ("LEAVES_BY_ITSELF_S", 0.1), ("SBATCH_S", 30.0)):
        monkeypatch.setattr(jobs.tune.cleanup, name, value)
    replaced: dict[str, Callable[..., object]] = {"ask": site.ask, "queue": site.seen}
    for name, function in replaced.items():
        monkeypatch.setattr(jobs.tune.cleanup, name, function)
    monkeypatch.setattr(jobs.tune.cleanup, "overview", lambda output_dir, only: site.overviews.append(only))
    return site


def test_a_job_whose_record_is_over_leaves_by_itself(site: Site) -> None:
    site.record("completed")
    site.queue = ["RUNNING", "COMPLETING", ""]
    site.end()
    assert site.commands == []
    assert read_stop_request(site.paths) is None


def test_one_that_does_not_leave_is_cancelled(site: Site) -> None:
    site.record("completed")
    site.queue, site.leaves_when_cancelled = ["RUNNING"], True
    site.end()
    assert site.commands == ["scancel 7"]


@pytest.mark.parametrize(
    ("state", "job", "queued"),
    [
        ("running", "7", "RUNNING"),
        ("failed", "7", "RUNNING"),  # a node's failure may have it started again
        ("completed", "7", "PENDING"),
        ("completed", "6", "RUNNING"),  # somebody else trained it meanwhile
    ],
)
def test_one_that_may_go_on_is_cancelled_at_once(site: Site, state: State, job: str, queued: str) -> None:
    site.record(state, job)
    site.queue = [queued, ""]
    site.end()
    assert site.commands == ["scancel 7"]


def test_a_forced_end_waits_for_nothing(site: Site) -> None:
    site.record("completed")
    site.queue = ["RUNNING", ""]
    site.end(is_forced=True)
    assert site.commands == ["scancel --signal=KILL 7", "scancel 7"]


def test_a_job_that_stays_is_reported(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.tune.cleanup, "PATIENCE_S", 0.1)
    site.queue = ["RUNNING"]
    with pytest.raises(SlurmError, match="not gone after 0 s, though cancelled: 7"):
        site.end()
    assert site.commands == ["scancel 7"]
    assert site.overviews == [[site.paths.folder]]


def test_a_job_that_has_left_before_it_was_cancelled_is_no_error(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.refuses = True
    site.queue = ["RUNNING", ""]
    site.end()
    monkeypatch.setattr(jobs.tune.cleanup, "PATIENCE_S", 0.1)
    site.queue = ["RUNNING"]
    with pytest.raises(SlurmError, match="Invalid job id"):
        site.end()
    assert len(site.commands) > 2  # asked for again and again


def test_a_job_that_comes_of_a_late_sbatch_is_cancelled_too(site: Site) -> None:
    site.ledger.write(replace(site.entry, job_id=None, submitted_at=time.time()))
    site.queue = ["", "", "PENDING", ""]
    site.end()
    assert site.commands == ["scancel 7"]


def test_an_sbatch_that_never_answered_is_not_waited_for_for_ever(site: Site) -> None:
    for submitted_at in (time.time() - 60, time.time() + 3600):  # another machine's clock
        one = site.ledger.write(replace(site.entry, job_id=None, submitted_at=submitted_at))
        os.utime(site.ledger.folder / f"{one.token}.json", (time.time() - 60,) * 2)
        site.end()
    assert site.commands == []


def test_orphans_are_cancelled_but_for_what_leaves(site: Site) -> None:
    site.queue = ["RUNNING"]
    cancel_orphans("mine", site.output_dir, {site.run.folder_name})
    assert site.commands == []
    cancel_orphans("mine", site.output_dir, set())
    assert site.commands == ["scancel 7"]
    site.record("completed")
    cancel_orphans("mine", site.output_dir, set())
    assert site.commands == ["scancel 7"]


def test_processes_that_a_drivers_server_has_forked_are_ended_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork is not started with its driver's variable, but shows the environment of its server."""
    server = "from jobs.local import fork_server as f; f.PRELOADED = f.LOADERS = (); f.main()"
    monkeypatch.setattr(fork_client, "COMMAND", (sys.executable, "-c", server))
    monkeypatch.setattr(jobs.tune.cleanup, "FORCED_GRACE_S", 0.0)
    out, environment = tmp_path / "out", {**os.environ, DRIVER_VARIABLE: "mine"}
    arguments = ("wait", str(out))
    with own_server(environment) as path:
        assert path is not None
        spec = ProcessSpec("tests.helpers.process_state", arguments, os.environ, tmp_path / "log.txt")
        forked = ForkedProcess(path, spec)
        while not out.exists():
            assert forked.poll() is None, spec.log.read_text()
            time.sleep(0.02)
        end_processes("another", is_forced=True)
        time.sleep(0.2)
        assert forked.poll() is None
        found = {process.pid for process in jobs.tune.cleanup._processes_of("mine")}
        assert set(forked._pids) <= found
        assert len(found) == 3  # with the server and its supervisor of the run
        end_processes("mine", is_forced=True)
        forked.wait(20)
        assert jobs.tune.cleanup._processes_of("mine") == []
