"""Runs trained in turn: which end lets the next one go on, and which does not."""

import logging
from pathlib import Path
from typing import Any

import pytest

import suite.train
from jobs.local.ranked import train_in_turn
from jobs.outcome import LaunchOutcome
from suite.config import expand
from suite.errors import Diverged, Preempted, UserError
from suite.experiment import Run

CONTENT = {
    "model": {"arch": "small_resnet11"},
    "batch": {"global_batch_size": 8},
    "system": {"device": "cpu"},
    "seeds": [0, 1, 2],
}


def outcome_of(
    end: Exception, folder: Path, patch: pytest.MonkeyPatch, world_size: int = 1
) -> tuple[list[int], LaunchOutcome | int | str | None]:
    """The seeds that were trained when the second one ended so, and what came of it all."""
    trained: list[int] = []

    def train_on(run: Run, folder: Path, *_: Any) -> None:
        folder.mkdir(parents=True)
        logging.getLogger("shiftbench").warning("training seed %d", run.seed)
        trained.append(run.seed)
        if run.seed == 1:
            raise end

    patch.setattr(suite.train, "train_on", train_on)
    try:
        return trained, train_in_turn(expand(CONTENT, "turns").runs, folder, world_size)
    except SystemExit as ended:
        return trained, ended.code


@pytest.mark.parametrize(
    ("end", "code"), [(Diverged("the loss"), 3), (UserError("locked"), 2), (Preempted("stopped"), 75)]
)
def test_what_all_ranks_meet(
    end: Exception, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, outcome = outcome_of(end, tmp_path, monkeypatch)
    assert isinstance(outcome, LaunchOutcome)
    assert trained == ([0, 1] if code == 75 else [0, 1, 2])
    assert len(outcome.completed) == len(trained) - 1
    assert outcome.exit_code == code
    logs = [path.read_text() for path in sorted(tmp_path.glob("*/log.txt"))]
    assert [text.count("training seed") for text in logs] == [1] * len(trained)


def full_disk() -> UserError:
    error = UserError("the run folder: No space left on device")
    error.__cause__ = OSError(28, "No space left on device")
    return error


@pytest.mark.parametrize(("end", "code"), [(RuntimeError("one rank's own"), 1), (full_disk(), 2)])
def test_what_one_rank_may_meet_alone_ends_all(
    end: Exception, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert outcome_of(end, tmp_path, monkeypatch) == ([0, 1], code)


def test_batches_that_do_not_fit_the_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="3 ranks × batch_size_per_gpu 8 = 24 samples a pass"):
        outcome_of(Diverged(), tmp_path, monkeypatch, world_size=3)
    assert not list(tmp_path.iterdir())
