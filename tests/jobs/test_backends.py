"""The table of schedulers: an entry is found by every command, and an unknown scheduler is refused."""

import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from jobs.cluster import control
from jobs.cluster import submit as submitting
from jobs.cluster.backend import (
    ActiveJob,
    Backend,
    Cluster,
    JobVerdict,
    NewJob,
    RunStatus,
    SchedulerAnswer,
    SubmittedRun,
)
from jobs.cluster.clusters import BACKENDS, AnyCluster, parse_cluster
from jobs.cluster.control import cancel, retry
from jobs.cluster.ledger import Ledger, Submission, new_submission
from jobs.cluster.overview import active_jobs, log_files, overview
from jobs.cluster.submit import plan, scripts, submit
from jobs.doctor.examine import examine
from jobs.tune.runners import TrialContext, runner_for
from suite.config import expand
from suite.errors import UserError
from suite.experiment import Run
from tests.helpers.command_line import shiftbench

EXPERIMENT = {
    "model": {"arch": "small_resnet11"},
    "data": {"name": "fashion-mnist-7k", "image_size": 28},
    "seeds": [0, 1, 2],
}


class PbsCluster(Cluster):
    scheduler: Literal["pbs"]

    @property
    def ranks(self) -> int:
        return 1


class PbsBackend:
    """A scheduler that takes two runs a call, and runs what it has until that is cancelled."""

    cluster_type = PbsCluster
    job_noun = "request"
    ends_together = False

    def __init__(self) -> None:
        self.jobs: list[NewJob] = []
        self.cancelled: set[str] = set()
        self.slow_ends = 0

    def max_runs(self) -> int | None:
        return 2

    def preview(self, job: NewJob, cluster: PbsCluster) -> str:
        return f"qsub {len(job.runs)} after {job.after}"

    def submit(self, job: NewJob, cluster: PbsCluster) -> str:
        self.jobs.append(job)
        return str(100 + len(self.jobs))

    def job_ids(self, submission: Submission, job_id: str | None = None) -> dict[str, str]:
        job_id = job_id or submission.job_id or ""
        return {folder: f"{job_id}.{number}" for number, folder in enumerate(submission.folders)}

    def active(self, submissions: Sequence[Submission], output_dir: Path) -> dict[str, ActiveJob]:
        jobs = {f: job for one in submissions for f, job in self.job_ids(one).items()}
        active = {folder: job for folder, job in jobs.items() if not self._has_ended(job)}
        return {folder: ActiveJob(job, job in self.cancelled) for folder, job in active.items()}

    def query(
        self, runs: Sequence[SubmittedRun], *, is_being_submitted: bool
    ) -> tuple[dict[Path, SchedulerAnswer], list[str]]:
        answers = {}
        for run in runs:
            job = self.job_ids(run.submission)[run.folder.name]
            state: Any = "cancelled" if self._has_ended(job) else "running"
            ends = job in self.cancelled and state == "running"
            answers[run.folder] = SchedulerAnswer(job, "pbs1", JobVerdict(state, "by PBS"), is_ending=ends)
        return answers, ["PBS is slow today"]

    def _has_ended(self, job: str) -> bool:
        """Whether a cancelled job has written its checkpoint, asked for `slow_ends` times."""
        if job not in self.cancelled:
            return False
        self.slow_ends -= 1
        return self.slow_ends < 0

    def out_of_reach(self, submission: Submission) -> str | None:
        return None

    def cancel(self, runs: Sequence[RunStatus]) -> None:
        self.cancelled |= {str(run.job) for run in runs}

    def log_files(self, submission: Submission, job: str, rank: int) -> list[Path]:
        submission.folder.mkdir(parents=True, exist_ok=True)
        (submission.folder / "pbs.log").touch()
        return [submission.folder / "pbs.log"]

    def current_job(self) -> str | None:
        return None


@pytest.fixture
def pbs(monkeypatch: pytest.MonkeyPatch) -> PbsBackend:
    backend = PbsBackend()
    monkeypatch.setitem(BACKENDS, "pbs", backend)
    return backend


def three_runs() -> Sequence[Run]:
    return expand(EXPERIMENT, "x").runs


def test_every_command_uses_a_scheduler_that_is_added_to_the_table(pbs: PbsBackend, tmp_path: Path) -> None:
    cluster: Any = parse_cluster({"scheduler": "pbs", "name": "site", "array_parallelism": 1}, "site.yaml")
    assert isinstance(cluster, PbsCluster)
    runs = three_runs()
    calls = scripts(plan(runs, cluster, tmp_path), cluster, tmp_path, "x")
    assert calls == [
        (list(runs[:2]), "qsub 2 after ()"),
        (list(runs[2:]), "qsub 1 after ('ID-OF-THE-FORMER',)"),
    ]
    done = submit(runs, cluster, tmp_path, "x")
    assert [one.job_id for one in done.jobs] == ["101", "102"]
    assert [job.after for job in pbs.jobs] == [(), ("101",)]
    names = [run.folder_name for run in runs]
    jobs = dict(zip(names, ["101.0", "101.1", "102.0"], strict=True))
    assert pbs.job_ids(done.jobs[0]) | pbs.job_ids(done.jobs[1]) == jobs
    active = {name: job.text for name, job in active_jobs(Ledger(tmp_path)).items()}
    assert active == plan(runs, cluster, tmp_path).queued == jobs
    seen = overview(tmp_path)
    assert seen.notes == ["PBS is slow today"]
    shown = {(run.folder.name, run.state, run.reason, run.job, run.node) for run in seen.runs}
    assert shown == {(name, "running", "by PBS", job, "pbs1") for name, job in jobs.items()}
    assert [path.name for path in log_files(seen.runs[0], 0)] == ["pbs.log"]
    cancelled, left, _ = cancel(tmp_path, ["101.1"])
    assert pbs.cancelled == {"101.1"}
    assert ([run.job for run in cancelled], len(left)) == (["101.1"], 2)
    assert [one.num_submitted for one in retry(tmp_path, [], None)[0]] == [1]
    assert len(pbs.jobs) == 3


@pytest.mark.parametrize(("limit", "after"), [(2, ("101",)), (3, ()), (None, ())])
def test_the_limit_of_runs_at_a_time_holds_over_commands(
    pbs: PbsBackend, tmp_path: Path, limit: int | None, after: tuple[str, ...]
) -> None:
    """Two runs of the first command are under way; one of them was cancelled and is tried again."""
    cluster: Any = parse_cluster(
        {"scheduler": "pbs", "name": "site", "array_parallelism": limit}, "site.yaml"
    )
    first, second, third = three_runs()
    submit([first, second], cluster, tmp_path, "x")
    pbs.cancelled.add("101.0")
    planned = plan([first, third], cluster, tmp_path)
    assert [script for _, script in scripts(planned, cluster, tmp_path, "x")] == [f"qsub 2 after {after}"]
    submit([first, third], cluster, tmp_path, "x")
    assert pbs.jobs[-1].after == after
    # A study's driver counts its trials itself.
    submit([second.model_copy(update={"seed": 9})], cluster, tmp_path, "x", is_driven=True)
    assert pbs.jobs[-1].after == ()


@pytest.mark.parametrize(("slow_ends", "patience_s", "num_ending"), [(3, 60.0, 0), (10**6, 0.0, 1)])
def test_cancel_waits_for_the_end_so_that_a_retry_finds_the_run(
    pbs: PbsBackend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    slow_ends: int,
    patience_s: float,
    num_ending: int,
) -> None:
    waiting(monkeypatch, patience_s)
    submit(three_runs(), parse_cluster({"scheduler": "pbs"}, "site.yaml"), tmp_path, "x")
    pbs.slow_ends = slow_ends
    cancelled, _, ending = cancel(tmp_path, ["101.1"])
    assert (len(cancelled), len(ending)) == (1, num_ending)
    assert [one.num_submitted for one in retry(tmp_path, ["101.1"], None)[0]] == [1 - num_ending]


def waiting(patch: pytest.MonkeyPatch, patience_s: float) -> None:
    """Have `cancel` and `submit` wait so long, and look often."""
    for module in (control, submitting):
        patch.setattr(module, "ENDING_S", patience_s)
        patch.setattr(module, "POLL_S", 0.01)


@pytest.mark.parametrize("command", ["retry", "retry all", "submit"])
@pytest.mark.parametrize(("slow_ends", "patience_s"), [(4, 60.0), (10**6, 0.0)])
def test_a_job_that_was_cancelled_by_hand_is_waited_for(
    pbs: PbsBackend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    slow_ends: int,
    patience_s: float,
    command: str,
) -> None:
    """Without `shiftbench cancel`, which would have waited: the queue still has it while its run stops."""
    waiting(monkeypatch, patience_s)
    cluster: Any = parse_cluster({"scheduler": "pbs"}, "site.yaml")
    runs = three_runs()
    submit(runs, cluster, tmp_path, "x")
    pbs.cancelled.add("101.1")
    pbs.slow_ends = slow_ends
    name = runs[1].folder_name
    if command == "submit":
        done, said = submit(runs, cluster, tmp_path, "x"), []
    else:
        (done,), said = retry(tmp_path, ["101.1"] if command == "retry" else [], None)
    assert said == []
    if patience_s:
        assert ([one.folders for one in done.jobs], done.ending) == ([(name,)], {})
    else:
        assert (done.num_submitted, done.ending) == (0, {name: "101.1"})
    assert pbs.cancelled == {"101.1"}


def test_a_job_that_does_not_end_is_told(
    pbs: PbsBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting(monkeypatch, 0.0)
    runs = three_runs()
    submit(runs, parse_cluster({"scheduler": "pbs"}, "site.yaml"), tmp_path, "x")
    pbs.cancelled.add("101.1")
    pbs.slow_ends = 10**6
    done = shiftbench("retry", "101.1", "--output-dir", tmp_path)
    assert done.returncode == 3, done.stderr
    assert "0 submitted, 1 still ending" in done.stdout
    name = runs[1].folder_name
    said = f"error: {name} was not submitted: its job 101.1 has not ended yet; run the same command again"
    assert said in done.stderr


def test_runs_that_end_together_are_not_cancelled_singly(pbs: PbsBackend, tmp_path: Path) -> None:
    pbs.ends_together = True
    cluster: Any = parse_cluster({"scheduler": "pbs"}, "site.yaml")
    submit(three_runs(), cluster, tmp_path, "x")
    with pytest.raises(UserError, match="1 other run of the same pbs submission would end too: its request"):
        cancel(tmp_path, ["101.1"])
    assert not pbs.cancelled
    assert len(cancel(tmp_path, [])[0]) == 3


def test_a_refusal_lists_the_schedulers_of_the_table(pbs: PbsBackend) -> None:
    with pytest.raises(UserError, match=r"site\.yaml: scheduler: expected local or pbs or slurm, got 'lsf'"):
        parse_cluster({"scheduler": "lsf"}, "site.yaml")
    with pytest.raises(UserError, match=r"site\.yaml: queue: unknown key"):
        parse_cluster({"scheduler": "pbs", "queue": "long"}, "site.yaml")


def test_a_study_and_the_doctor_refuse_a_scheduler_that_they_cannot_use(
    pbs: PbsBackend, tmp_path: Path
) -> None:
    cluster: Any = parse_cluster({"scheduler": "pbs", "name": "site"}, "site.yaml")
    study: Any = None  # is not read
    context = TrialContext(study, tmp_path, cluster, 1, None, "token")
    refusal = "cluster site: expected scheduler local or slurm, got pbs"
    with pytest.raises(UserError, match=refusal):
        runner_for(three_runs()[0], context)
    with pytest.raises(UserError, match=refusal):
        next(examine(cluster, tmp_path, [], 1, with_nodes=True))


def test_a_submission_to_an_unknown_scheduler_is_named_and_left_out(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with ledger.held():
        one = new_submission("x", {"scheduler": "lsf"}, tmp_path, tmp_path, ["x"])
        ledger.write(one)
    seen = overview(tmp_path)
    assert seen.runs == []
    said = f"{ledger.folder / one.token}.json: scheduler: expected local or slurm, got 'lsf'"
    assert seen.notes == [said]
    assert active_jobs(Ledger(tmp_path)) == {}
    assert cancel(tmp_path, []) == ([], [], [])


def test_the_type_of_clusters_and_the_literals_follow_the_table() -> None:
    types = {backend.cluster_type for backend in BACKENDS.values()}
    assert types == set(typing.get_args(AnyCluster))
    for name, backend in BACKENDS.items():
        annotation = backend.cluster_type.model_fields["scheduler"].annotation
        assert typing.get_args(annotation) == (name,)


def test_a_backend_has_every_member_of_the_protocol() -> None:
    members = {name for name in {*vars(Backend), *Backend.__annotations__} if not name.startswith("_")}
    for backend in BACKENDS.values():
        assert not [name for name in members if not hasattr(backend, name)]
