"""`shiftbench reproduce`: what it refuses, what it runs, and how it ends."""

import dataclasses
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from jobs.local.fork_client import starter_of
from jobs.local.process import PlainProcess, ProcessSpec, StartProcess
from jobs.reproduce import claim_experiments, perturb_trained
from reports.stats import MIN_SEEDS_FOR_A_CLAIM
from reports.write.report_folder import ReportFiles, build_report
from suite.errors import UserError
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import RecordWriter, read_noise

# Three runs of two epochs on the carried images: seconds.
TINY = ("seeds=[0, 1, 2]", "data.train_images=64", "data.val_images=20", "recipe.epochs=2")
TINY_NET = (
    "seeds=[0]",
    "model={arch: small_resnet11, norm: [{kind: bn}]}",
    "data.train_images=32",
    "data.val_images=20",
    "recipe.epochs=1",
    "measure.precise_bn_images=0",
)


@pytest.fixture(autouse=True)
def carried_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data set on this machine but the carried one."""
    monkeypatch.setattr(claim_experiments, "DEBIAN_FOLDER", tmp_path / "absent")
    monkeypatch.setattr(claim_experiments, "default_root", lambda: tmp_path / "data")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick A and D made tiny."""
    small = {
        "A": dataclasses.replace(claim_experiments.PLANS["A"], quick=TINY),
        "D": dataclasses.replace(claim_experiments.PLANS["D"], quick=TINY_NET),
    }
    monkeypatch.setattr(claim_experiments, "PLANS", {**claim_experiments.PLANS, **small})


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """The arguments of all reports of a test. The first is built, and its result returned for the others."""
    calls: list[tuple[Any, Any]] = []
    results: list[ReportFiles] = []

    def build_once(*arguments: Any, **options: Any) -> ReportFiles:
        calls.append((arguments, options))
        if not results:
            results.append(build_report(*arguments, **options))
        return results[0]

    monkeypatch.setattr("reports.write.report_folder.build_report", build_once)
    return calls


def reproduce(folder: Path, *arguments: str) -> Result:
    where = ["--output-dir", str(folder / "runs"), "--out", str(folder / "out")]
    return CliRunner().invoke(app, ["reproduce", *arguments, *where])


# ---------------------------------------------------------------- what is run


@pytest.mark.parametrize("quick", [False, True])
def test_every_claim_has_a_valid_experiment(quick: bool) -> None:
    found = claim_experiments.experiments(claim_experiments.chosen([]), quick)
    assert list(found) == list("ABCDEF")
    counts = {letter: len(one.runs) for letter, one in found.items()}
    assert counts["B"] < counts["C"]


def test_every_claim_has_the_seeds_that_a_verdict_takes() -> None:
    for one in claim_experiments.experiments(claim_experiments.chosen([]), quick=False).values():
        assert len({run.seed for run in one.runs}) >= MIN_SEEDS_FOR_A_CLAIM


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(
    ("some", "others", "num_shared"), [("B", "C", 5), ("D", "E", 2), ("E", "F", 2)], ids=["BC", "DE", "EF"]
)
def test_claims_that_share_runs_run_them_once(some: str, others: str, num_shared: int, quick: bool) -> None:
    found = claim_experiments.experiments([some, others], quick)
    ids = [{run.run_id for run in found[letter].runs} for letter in (some, others)]
    num_seeds = len({run.seed for run in found[some].runs})
    if quick and some == "B":
        num_shared = 2  # sizes
    assert len(ids[0] & ids[1]) == num_shared * num_seeds
    assert len(claim_experiments.runs_of(found)) == len(ids[0] | ids[1])


def test_letters_may_be_small_and_doubled_and_come_in_order() -> None:
    assert claim_experiments.chosen(["c", "A", "C"]) == ["A", "C"]
    assert claim_experiments.chosen([]) == list("ABCDEF")


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("mnist", "mnist"), ("fashion-mnist-idx", "fashion-mnist"), (None, claim_experiments.CARRIED)],
)
def test_mnist_is_taken_where_it_is_then_fashion_mnist_then_what_is_carried(
    tmp_path: Path, folder: str | None, expected: str
) -> None:
    if folder is not None:
        (tmp_path / "data" / folder).mkdir(parents=True)
    found = claim_experiments.experiments(list("AD"), quick=False)
    assert {run.data.name for run in found["A"].runs} == {expected}
    # The small ResNets have enough in the carried images, unless MNIST itself is here.
    assert {run.data.name for run in found["D"].runs} == {
        "mnist" if folder == "mnist" else claim_experiments.CARRIED
    }


def test_the_carried_images_are_enough_for_every_claim() -> None:
    from suite.data import check_data

    for run in claim_experiments.runs_of(claim_experiments.experiments(list("ABCDEF"), quick=False)):
        check_data(run)


# ---------------------------------------------------------------- what is refused


def test_an_unknown_claim_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    done = reproduce(tmp_path, "A", "Z")
    assert isinstance(done.exception, UserError)
    assert str(done.exception) == "'Z' is no claim; the claims are A, B, C, D, E, F"


def test_mnist_without_its_files_is_refused_before_anything_starts(tmp_path: Path, tiny: None) -> None:
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    os.environ["SHIFTBENCH_DATA_DIR"], before = str(tmp_path / "data"), os.environ["SHIFTBENCH_DATA_DIR"]
    try:
        done = reproduce(tmp_path, "A", "--quick")
    finally:
        os.environ["SHIFTBENCH_DATA_DIR"] = before
    assert isinstance(done.exception, UserError)
    assert "has neither train-labels-idx1-ubyte.gz" in str(done.exception)
    assert not (tmp_path / "runs").exists()


def test_the_list_names_each_claim_and_its_cost(tmp_path: Path) -> None:
    done = reproduce(tmp_path, "--list")
    lines = done.stdout.splitlines()
    assert [line[0] for line in lines] == list("ABCDEF")
    assert all("minutes on two cores" in line for line in lines)
    assert not (tmp_path / "runs").exists()


# ---------------------------------------------------------------- from end to end


@pytest.mark.usefixtures("tiny", "fork_server")
def test_a_claim_is_run_judged_and_reported_and_not_run_again(
    tmp_path: Path, reported: list[tuple[Any, Any]]
) -> None:
    # A folder that holds the runs of others, and one of ours that was interrupted before it began.
    runs = claim_experiments.runs_of(claim_experiments.experiments(["A"], quick=True))
    foreign = runs[0].model_copy(update={"seed": 77, "experiment": "another"})
    for run, state in ((foreign, "failed"), (runs[0], "preempted")):
        with RecordWriter(run, tmp_path / "runs" / run.folder_name) as record:
            record.status(state, reason="no matter")  # type: ignore[arg-type]
    done = reproduce(tmp_path, "A", "--quick", "--jobs", "2")
    assert done.exit_code == 0, done.stdout
    assert "3 completed, 0 were complete, 0 did not complete" in done.stdout
    assert "fails" in done.stdout  # in two epochs nothing is learnt
    report = (tmp_path / "out" / "report.md").read_text()
    assert "## The paper's claims" in report
    assert "3 of 3 runs" in report
    assert f"({claim_experiments.CARRIED}; 3 of 3 runs)" in report
    assert "shiftbench reproduce A --quick" in report
    assert (tmp_path / "out" / "figures" / "claim-a-error-by-epoch.svg").exists()
    assert foreign.run_id not in (tmp_path / "out" / "results.csv").read_text()

    again = reproduce(tmp_path, "A", "--quick")
    assert again.exit_code == 0
    assert "0 completed, 3 were complete, 0 did not complete" in again.stdout
    assert reported[0] == reported[1]


def test_a_failed_run_leaves_its_claim_open_and_ends_with_3(
    tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = claim_experiments.runs_of(claim_experiments.experiments(["A"], quick=True))
    _complete_all_but_first(runs, tmp_path / "runs")

    def refuse(run: Run, folder: Path, *_: Any) -> None:
        with RecordWriter(run, folder) as record:
            record.status("failed", reason="no memory left")
        raise OSError(12, "no memory left")

    monkeypatch.setattr("jobs.local.launcher.start", refuse)
    done = reproduce(tmp_path, "A", "--quick")
    assert done.exit_code == 3, done.stdout
    assert "A: inconclusive" in done.stdout
    assert "Of 3 runs 1 did not complete: 1 failed (no memory left)" in done.stdout


def test_ctrl_c_ends_with_130_and_without_a_report(
    tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.local.launcher.start", _interrupting)
    done = reproduce(tmp_path, "A", "--quick")
    assert done.exit_code == 130, done.stdout
    assert "the same command continues" in done.stdout
    assert not (tmp_path / "out").exists()


def _interrupting(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    raise OSError(4, "interrupted")


def _complete_all_but_first(runs: list[Run], output_dir: Path) -> None:
    for run in runs[1:]:
        with RecordWriter(run, output_dir / run.folder_name) as record:
            record.status("completed")


# ---------------------------------------------------------------- noise


@pytest.mark.usefixtures("tiny", "reported")
def test_noise_is_measured_once_and_again_where_it_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fork_server: Path
) -> None:
    start = starter_of(fork_server)
    monkeypatch.setattr(perturb_trained, "DELTAS", (0.0, 0.5))
    monkeypatch.setattr(perturb_trained, "DRAWS", 2)
    done = reproduce(tmp_path, "D", "--quick")
    assert done.exit_code == 0, done.stdout
    assert done.stdout.count("noise  ") == 1
    assert "D: inconclusive" in done.stdout
    runs = claim_experiments.runs_of(claim_experiments.experiments(["D"], quick=True))
    paths = RunPaths(tmp_path / "runs" / runs[0].folder_name)
    first = read_noise(paths)
    assert first is not None
    assert first.deltas == (0.0, 0.5)
    assert [len(draws) for draws in first.top1_percent] == [2, 2]
    assert len(set(first.top1_percent[0])) == 1  # no noise, no difference between draws
    assert first.num_images == 20

    def measured(start: StartProcess = start) -> list[str | None]:
        found = perturb_trained.measure_missing(runs, tmp_path / "runs", 1, start)
        return [error for _, error in found]

    def start_nothing(spec: ProcessSpec) -> PlainProcess:
        spec.log.touch()
        return SimpleNamespace(poll=lambda: 0)  # type: ignore[return-value]

    assert measured() == []
    for damaged in ("{", json.dumps({**json.loads(paths.noise.read_text()), "step": 99})):
        paths.noise.write_text(damaged)
        assert measured(start_nothing) == [None]
    assert measured() == [None]
    assert read_noise(paths) == first
    monkeypatch.setattr(perturb_trained, "DRAWS", 3)
    assert measured(start_nothing) == [None]
    # Several at a time, of one thread each: the same.
    monkeypatch.setattr(perturb_trained, "DELTAS", (0.0, 0.1, 0.3, 0.5))
    assert measured() == [None]
    alone = read_noise(paths)
    paths.noise.unlink()
    both = perturb_trained.measure_missing([*runs, *runs], tmp_path / "runs", 2, start)
    assert [trouble for _, trouble in both] == [None, None]
    assert read_noise(paths) == alone
    for step in paths.checkpoint_steps():
        paths.checkpoint(step).unlink()
    assert "has no checkpoint to measure under noise" in str(measured()[0])
    failed = reproduce(tmp_path, "D", "--quick")
    assert failed.exit_code == 3
    assert "has no checkpoint to measure" in failed.stdout
