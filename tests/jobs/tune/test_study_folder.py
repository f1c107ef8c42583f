"""The study's own folder: the same study continues, another one is refused with what differs."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.tune.study_folder import StudyFolder
from suite.errors import UserError
from suite.studies.study import load_study
from tests.helpers.study_files import BASE, write


def opened(folder: Path, accept: bool = False, **keys: Any) -> StudyFolder:
    study_folder = StudyFolder(load_study(write(folder, **keys)), folder / "runs")
    with study_folder.held():
        study_folder.compare(accept)
        study_folder.write()
    return study_folder


def test_the_same_study_continues(tmp_path: Path) -> None:
    assert not opened(tmp_path).is_begun
    assert opened(tmp_path).is_begun
    # Where trials run and for how long decides no result.
    assert opened(tmp_path, trials={"at_a_time": 3}, budget={"rank_hours": 2}).is_begun


def test_a_changed_study_is_refused_with_what_differs(tmp_path: Path) -> None:
    opened(tmp_path)
    before = (tmp_path / "runs" / "studies" / "mine" / "study.json").read_text()
    changed = {
        "space": {"batch.norm_batch_size": {"kind": "grid", "values": [2, 8, 16]}},
        "base": {**BASE, "recipe": {"lr": 0.2}},
    }
    with pytest.raises(UserError) as refusal:
        opened(tmp_path, **changed)
    assert str(refusal.value) == (
        "the study has changed since it began: space.batch.norm_batch_size.values: [2, 16] → [2, 8, 16]; "
        'base.recipe: none → {"lr": 0.2}; --accept continues it as it is now, or give it another name'
    )
    assert (tmp_path / "runs" / "studies" / "mine" / "study.json").read_text() == before
    assert opened(tmp_path, accept=True, **changed).is_begun
    assert opened(tmp_path, **changed).is_begun


def test_a_key_that_came_later_is_no_change(tmp_path: Path) -> None:
    study_folder = opened(tmp_path)
    path = study_folder.folder / "study.json"
    content = json.loads(path.read_text())
    del content["spec"]["margin_points"]
    path.write_text(json.dumps(content))
    assert opened(tmp_path).is_begun


def test_two_drivers_at_once_and_newer_folders_are_refused(tmp_path: Path) -> None:
    study_folder = opened(tmp_path)
    with study_folder.held(), pytest.raises(UserError, match="another `shiftbench tune` runs this study now"):
        opened(tmp_path)
    (study_folder.folder / "study.json").write_text('{"schema_version": 2}')
    with pytest.raises(UserError, match="written by a newer shiftbench"):
        opened(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        opened(tmp_path)


def test_points_are_kept_in_order(tmp_path: Path) -> None:
    study_folder = opened(tmp_path)
    study_folder.add_point({"recipe.lr": 0.1}, {"recipe.lr": 0.1})
    study_folder.add_point({"model.norm": 1}, {"model.norm": {"kind": "bn"}})
    assert not study_folder.is_search_over
    study_folder.end_search()
    (study_folder.folder / "points.jsonl").open("a").write('{"params": {"rec')  # killed while it wrote
    assert study_folder.proposed_points() == [
        ({"recipe.lr": 0.1}, {"recipe.lr": 0.1}),
        ({"model.norm": 1}, {"model.norm": {"kind": "bn"}}),
    ]
    assert study_folder.is_search_over


def test_what_was_judged_is_kept(tmp_path: Path) -> None:
    study_folder = opened(tmp_path)
    study_folder.add_judged("a", 1)
    study_folder.add_judged("b", 2)
    assert opened(tmp_path).judged_epochs() == {("a", 1), ("b", 2)}


def test_looking_does_not_begin_a_study(tmp_path: Path) -> None:
    study_folder = StudyFolder(load_study(write(tmp_path)), tmp_path / "runs")
    with study_folder.held():
        study_folder.compare(accept=True)
    assert not opened(tmp_path).is_begun
