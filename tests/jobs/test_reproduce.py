"""`shiftbench reproduce`: what it refuses, what it runs, and how it ends."""

import dataclasses
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.reproduce import claim_experiments
from reports.claims import load_registration, register
from reports.claims.check import Check
from reports.claims.registration import COPY, FILE, Registered
from reports.stats import MIN_SEEDS_FOR_A_CLAIM
from suite.config import load_experiment
from suite.errors import UserError
from suite.experiment import Experiment, Run
from suite.record import RecordWriter
from tests.helpers.reproducing import CARRIED, CLAIMS, TINY, carried_data, reproduce, tiny

__all__ = ["carried_data", "tiny"]  # fixtures


@pytest.fixture
def small_claim(monkeypatch: pytest.MonkeyPatch) -> Registered:
    """Claim A with looks at three, four and five seeds, and experiments as tiny as the preview's."""
    registered = load_registration()
    claim = registered.content.claims["A"].model_copy(update={"looks": (3, 4, 5)})
    content = registered.content.model_copy(update={"claims": {"A": claim}})
    changed = dataclasses.replace(registered, content=content)
    monkeypatch.setattr("reports.claims.load_registration", lambda: changed)
    monkeypatch.setattr("reports.claims.result.load_registration", lambda: changed)

    def small(_: str, config: str, seeds: Sequence[int], quick: bool) -> Experiment:
        assert not quick
        return load_experiment(claim_experiments.FOLDER / config, [f"seeds={list(seeds)}", *CARRIED, *TINY])

    monkeypatch.setattr(claim_experiments, "experiment_of", small)
    return changed


# ---------------------------------------------------------------- what is run


def experiment(letter: str, look: int = 0, quick: bool = False) -> Experiment:
    claim = CLAIMS[letter]
    return claim_experiments.experiment_of(letter, claim.experiment, claim.seeds(look), quick)


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("letter", CLAIMS)
def test_every_claim_has_a_valid_experiment_for_each_look(letter: str, quick: bool) -> None:
    for look, count in enumerate(CLAIMS[letter].looks):
        seeds = {run.seed for run in experiment(letter, look, quick).runs}
        assert seeds == set(range(CLAIMS[letter].first_seed, CLAIMS[letter].first_seed + count))
    assert list(claim_experiments.PLANS) == list(CLAIMS)
    assert CLAIMS[letter].looks[0] >= MIN_SEEDS_FOR_A_CLAIM


def test_the_shipped_configs_have_none_of_the_claims_seeds() -> None:
    """A user who runs a config alone sees the results of its seeds, which are then no longer fresh."""
    for claim in CLAIMS.values():
        shipped = load_experiment(claim_experiments.FOLDER / claim.experiment)
        assert not {run.seed for run in shipped.runs} & set(claim.seeds(-1))
        assert claim_experiments.QUICK_SEED not in claim.seeds(-1)


@pytest.mark.parametrize(
    ("some", "others", "num_shared"),
    [("B", "C", 5), ("D", "F", 2), ("D", "G", 3), ("E", "H", 2)],
    ids=["BC", "DF", "DG", "EH"],
)
def test_claims_that_share_runs_run_them_once(some: str, others: str, num_shared: int) -> None:
    found = {letter: experiment(letter) for letter in (some, others)}
    ids = [{run.run_id for run in one.runs} for one in found.values()]
    assert len(ids[0] & ids[1]) == num_shared * CLAIMS[some].looks[0]
    assert len(claim_experiments.runs_of(found)) == len(ids[0] | ids[1])


def test_letters_may_be_small_and_doubled_and_come_in_order() -> None:
    assert claim_experiments.chosen(["c", "A", "C"]) == ["A", "C"]
    assert claim_experiments.chosen([]) == list("ABCDEFGHI")


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("mnist", "mnist"), ("fashion-mnist-idx", "fashion-mnist"), (None, claim_experiments.CARRIED)],
)
def test_mnist_is_taken_where_it_is_then_fashion_mnist_then_what_is_carried(
    tmp_path: Path, folder: str | None, expected: str
) -> None:
    if folder is not None:
        (tmp_path / "data" / folder).mkdir(parents=True)
    for letter in "AD":
        assert {run.data.name for run in experiment(letter).runs} == {expected}


@pytest.mark.parametrize("letter", CLAIMS)
def test_the_carried_images_are_enough_for_every_claim(letter: str) -> None:
    from suite.data import check_data

    for run in experiment(letter).runs:
        check_data(run)


# ---------------------------------------------------------------- what is refused


def test_an_unknown_claim_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    done = reproduce(tmp_path, "A", "Z")
    assert isinstance(done.exception, UserError)
    assert str(done.exception) == "'Z' is no claim; the claims are A, B, C, D, E, F, G, H, I"


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
    assert [line[0] for line in lines] == list("ABCDEFGHI")
    assert all("minutes on two cores" in line for line in lines)
    assert not (tmp_path / "runs").exists()


# ---------------------------------------------------------------- from end to end


@pytest.mark.usefixtures("fork_server")
def test_seeds_are_added_until_there_is_a_verdict_and_nothing_is_run_again(
    tmp_path: Path, small_claim: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = {3: "inconclusive", 4: "holds"}
    monkeypatch.setattr(Check, "outcome", property(lambda check: outcomes[len(check.values)]))
    # A folder that holds a run of others, and one of ours that was interrupted before it began.
    output_dir = tmp_path / "runs"
    first = experiment_of_look(0).runs[0]
    foreign = first.model_copy(update={"seed": 77, "experiment": "another"})
    register(output_dir)
    for run, state in ((foreign, "failed"), (first, "preempted")):
        with RecordWriter(run, output_dir / run.folder_name) as record:
            record.status(state, reason="no matter")  # type: ignore[arg-type]
    done = reproduce(tmp_path, "A", "--jobs", "2")
    assert done.exit_code == 0, done.stdout
    assert (output_dir / COPY).read_bytes() == FILE.read_bytes()
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert [line for line in lines if line.startswith("A ") and " at " in line] == [
        "A inconclusive at 3 seeds",
        "A holds at 4 seeds",
    ]
    assert "3 completed, 0 were complete, 0 did not complete" in done.stdout
    assert "1 completed, 3 were complete, 0 did not complete" in done.stdout
    report = (tmp_path / "out" / "report.md").read_text()
    assert "## The paper's claims" in report
    assert f"({claim_experiments.CARRIED}; 4 of 4 runs)" in report
    assert "shiftbench reproduce A" in report
    assert (tmp_path / "out" / "figures" / "claim-a-error-by-epoch.svg").exists()
    assert foreign.run_id not in (tmp_path / "out" / "results.csv").read_text()

    # Stopped between looks and begun again, it takes the same looks, whatever else there is by now.
    again = reproduce(tmp_path, "A")
    assert again.exit_code == 0
    assert "0 completed, 3 were complete, 0 did not complete" in again.stdout
    assert "A         holds at 4 seeds" in again.stdout
    assert (tmp_path / "out" / "report.md").read_text() == report

    (output_dir / COPY).unlink()
    unregistered = reproduce(tmp_path, "A")
    assert "is a run of these claims that was made without registered rules" in str(unregistered.exception)
    (output_dir / COPY).write_text("other: rules\n")
    changed = reproduce(tmp_path, "A")
    assert isinstance(changed.exception, UserError)
    assert "under which the runs of" in str(changed.exception)


def experiment_of_look(look: int) -> Experiment:
    """Of the small claim."""
    seeds = list(range(1000, 1003 + look))
    path = claim_experiments.FOLDER / CLAIMS["A"].experiment
    return load_experiment(path, [f"seeds={seeds}", *CARRIED, *TINY])


@pytest.mark.usefixtures("small_claim")
def test_a_failed_seed_leaves_its_claim_open_without_further_seeds_and_ends_with_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(tmp_path / "runs")
    _complete_all_but_first(list(experiment_of_look(0).runs), tmp_path / "runs")

    def refuse(run: Run, folder: Path, *_: Any) -> None:
        with RecordWriter(run, folder) as record:
            record.status("failed", reason="no memory left")
        raise OSError(12, "no memory left")

    monkeypatch.setattr("jobs.local.launcher.start", refuse)
    done = reproduce(tmp_path, "A")
    assert done.exit_code == 3, done.stdout
    assert "A         inconclusive at 3 seeds" in done.stdout
    assert "at 4 seeds" not in done.stdout
    assert "Of 3 runs 1 did not complete: 1 failed (no memory left)" in done.stdout


@pytest.mark.usefixtures("tiny", "fork_server")
def test_a_preview_has_one_seed_and_no_verdict(tmp_path: Path) -> None:
    done = reproduce(tmp_path, "A", "--quick")
    assert done.exit_code == 0, done.stdout
    assert "1 completed, 0 were complete, 0 did not complete" in done.stdout
    assert "A: inconclusive" in done.stdout
    assert "--quick runs one seed, which is too few for a verdict." in done.stdout
    assert not (tmp_path / "runs" / COPY).exists()


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
