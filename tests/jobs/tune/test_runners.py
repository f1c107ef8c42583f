"""A trial's run: ours to end or another's, refused for now or for good, ended by us or failed by itself."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

import jobs.tune.runners
import jobs.tune.trial
from jobs.cluster.clusters import LocalCluster
from jobs.cluster.slurm_commands import SlurmError
from jobs.local.child import Child
from jobs.tune.runners import LocalRunner, TrialContext, settle_request
from jobs.tune.trial import Trial
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import RecordWriter, StopRequest, read_status, request_stop
from suite.studies.study import load_study
from tests.helpers.runs import make_run
from tests.helpers.study_files import write

ASHA = StopRequest("stopped", "asha after epoch 1: top1_percent 12", "asha", 1)


def trial_context(folder: Path, study: Any = None, omp_num_threads: str | None = None) -> TrialContext:
    cluster = LocalCluster(name="local", environment={"MINE": "yes"})
    return TrialContext(study, folder, cluster, 3, omp_num_threads, "token")


def test_a_run_that_another_process_trains_is_followed_and_left_alone(tmp_path: Path) -> None:
    run = make_run()
    folder = tmp_path / run.folder_name
    runner = LocalRunner(run, trial_context(tmp_path))
    with RecordWriter(run, folder) as theirs:
        theirs.status("running")
        runner.begin()
        assert not runner.is_ours()
        assert not runner.is_over()
        runner.end()
        assert not runner.is_over()
        theirs.status("completed")
    assert runner.is_over()
    assert not RunPaths(folder).stop.exists()


@pytest.mark.parametrize(("own", "kept"), [(None, None), ("2", "2")])
def test_what_ray_sets_for_its_workers_does_not_reach_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str | None, kept: str | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    trial_context(tmp_path, omp_num_threads=own).restore_environment()
    assert os.environ.get("OMP_NUM_THREADS") == kept


def test_a_process_gets_its_share_of_threads_and_a_mark_to_be_found_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def start(
        run: Run, folder: Path, ranks: int, threads: int, variables: dict[str, str], _: object
    ) -> Child:
        given.extend((ranks, threads, variables))
        raise OSError("no process here")

    monkeypatch.setattr(jobs.tune.runners, "start", start)
    with pytest.raises(Exception, match="could not be started: no process here"):
        LocalRunner(make_run(), trial_context(tmp_path)).begin()
    assert given == [1, 3, {"MINE": "yes", "SHIFTBENCH_STUDY_DRIVER": "token"}]


@pytest.mark.parametrize(
    ("state", "reason", "becomes"),
    [
        ("preempted", "stopped after step 9, by SIGTERM", "stopped"),
        ("cancelled", "job 7 was cancelled", "stopped"),
        ("failed", "its process was killed by SIGTERM; see log.txt", "stopped"),
        ("failed", "No space left on device: the last complete checkpoint is kept", "failed"),
        ("diverged", "the loss is not finite", "diverged"),
        ("completed", None, "completed"),
    ],
)
def test_a_stop_request_is_recorded_and_hides_no_failure(
    tmp_path: Path, state: Any, reason: str | None, becomes: str
) -> None:
    run = make_run()
    with RecordWriter(run, tmp_path) as record:
        record.status(state, reason=reason)
    request_stop(RunPaths(tmp_path), ASHA)
    settle_request(run, tmp_path)
    status = read_status(RunPaths(tmp_path))
    assert status.state == becomes
    if becomes == "stopped":
        assert status.reason == "ended by asha after epoch 1: top1_percent 12"
        assert status.content["stopped_after_epoch"] == 1


class Refusing:
    """A runner that Slurm refuses so many times."""

    poll_s = 0.0

    def __init__(self, errors: list[str]) -> None:
        self.errors = errors
        self.begun = 0

    def begin(self) -> None:
        self.begun += 1
        if self.errors:
            raise SlurmError(self.errors.pop(0))

    def is_over(self) -> bool:
        return True

    def is_ours(self) -> bool:
        return True

    def end(self) -> None:
        """It has ended."""

    def running_s(self) -> float:
        return 0.0


def trial_of(folder: Path, runner: Refusing, monkeypatch: pytest.MonkeyPatch) -> Trial:
    study = load_study(write(folder, seeds=[0]))
    monkeypatch.setattr(jobs.tune.trial, "runner_for", lambda *_: runner)
    monkeypatch.setattr(jobs.tune.trial, "RETRY_S", 0.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the trial removes it, and monkeypatch restores it
    trial = Trial.__new__(Trial)
    trial.context = trial_context(folder / "runs", study)
    (folder / "runs" / "studies" / "mine").mkdir(parents=True)
    point = study.points[0]
    trial.setup({"point": point.values, "seed": 0})
    return trial


def test_while_slurm_is_down_a_trial_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = ["Unable to contact slurm controller", "QOSMaxSubmitJobPerUserLimit"]
    runner = Refusing(errors)
    trial = trial_of(tmp_path, runner, monkeypatch)
    assert trial.step()["done"]
    assert runner.begun == 3
    assert not trial.stop_file.exists()
    assert not RunPaths(trial.folder).status.exists()  # and is no failure


def test_a_refusal_for_good_ends_the_study_and_fails_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Refusing(["sbatch: error: invalid partition specified: nowhere"])
    trial = trial_of(tmp_path, runner, monkeypatch)
    assert trial.step()["done"]
    assert runner.begun == 1
    assert "invalid partition" in json.loads(trial.stop_file.read_text())["refused"]
    assert not RunPaths(trial.folder).status.exists()
