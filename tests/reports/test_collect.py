"""Collecting: what is read again, what is not, and that a cache never changes what a report says."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

import reports.collect as collecting
from reports.collect import Collection, collect, collect_folders
from reports.frames import build_frames
from suite.errors import UserError
from suite.paths import RunPaths
from suite.record import RecordWriter
from tests.helpers.records import expand_runs, write_run

ONE_BATCH = {"global_batch_size": 64, "norm_batch_size": 4}


def at_rest(*folders: Path) -> None:
    """As files look a while after they were written."""
    for folder in folders:
        for path in (*folder.iterdir(), folder):
            then = path.stat().st_mtime - 3600
            os.utime(path, (then, then))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for run in expand_runs(batch=ONE_BATCH):
        at_rest(write_run(tmp_path / "runs", run, esm_sigma=None))
    return tmp_path / "runs"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def same(one: Collection, other: Collection) -> bool:
    """The same values, in whatever blocks they lie."""
    ours, theirs = build_frames(one), build_frames(other)
    return (
        ours.runs.equals(theirs.runs)
        and ours.layers.astype({"metric": str}).equals(theirs.layers.astype({"metric": str}))
        and _plain(ours.curves) == _plain(theirs.curves)
        and ours.starts.equals(theirs.starts)
        and ours.common_layers == theirs.common_layers
    )


def _plain(curves: "object") -> list[dict[str, object]]:
    frame = curves.astype({"metric": str, "split": str})  # type: ignore[attr-defined]
    return sorted(map(str, frame.to_dict("records")))  # type: ignore[no-any-return]


def test_unchanged_runs_are_not_read_again(runs: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = collect([runs], cache)
    assert (first.num_read, first.num_runs) == (9, 9)
    monkeypatch.setattr(collecting, "_read", None)  # which would be an error to call
    again = collect([runs], cache)
    assert again.num_read == 0
    assert same(first, again)


def test_only_what_changed_is_read_and_its_new_values_count(runs: Path, cache: Path) -> None:
    collect([runs], cache)
    (bn, *_) = expand_runs(batch=ONE_BATCH)
    with RecordWriter(bn, runs / bn.folder_name) as record:
        record.measure("top1_percent", 71.0, epoch=3, step=300, split="val")
        record.status("completed")
    again = collect([runs], cache)
    assert again.num_read == 1
    assert same(again, collect([runs]))
    changed = build_frames(again).runs.set_index("run_id").loc[bn.run_id]
    assert (changed.top1_percent, changed.epoch) == (71.0, 3)


def test_a_run_that_was_removed_is_gone_and_a_new_one_is_there(runs: Path, cache: Path) -> None:
    collect([runs], cache)
    (bn, *_) = expand_runs(batch=ONE_BATCH)
    shutil.rmtree(runs / bn.folder_name)
    (new,) = expand_runs(batch={"global_batch_size": 32}, model={"arch": "small_resnet20"}, seeds=[7])
    write_run(runs / "deeper" / "still", new)
    again = collect([runs], cache)
    assert (again.num_read, again.num_runs) == (1, 9)
    assert same(again, collect([runs]))


def test_a_file_edited_in_place_is_read_again(runs: Path, cache: Path) -> None:
    collect([runs], cache)
    (bn, *_) = expand_runs(batch=ONE_BATCH)
    path = RunPaths(runs / bn.folder_name).status
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": "failed", "reason": "by hand"}))
    assert build_frames(collect([runs], cache)).runs.set_index("run_id").state[bn.run_id] == "failed"


def test_a_running_run_is_asked_for_its_life_each_time(runs: Path, cache: Path) -> None:
    (bn, *_) = expand_runs(batch=ONE_BATCH)
    folder = runs / bn.folder_name
    with RecordWriter(bn, folder) as record:
        record.status("running")
        at_rest(folder)
        state = build_frames(collect([runs], cache)).runs.set_index("run_id").state
        assert state[bn.run_id] == "running"
    # Its process is gone, and no file says so.
    assert build_frames(collect([runs], cache)).runs.set_index("run_id").state[bn.run_id] == "failed"


def test_what_was_written_a_moment_ago_is_not_trusted(runs: Path, cache: Path) -> None:
    (bn, *_) = expand_runs(batch=ONE_BATCH)
    path = RunPaths(runs / bn.folder_name).measurements
    now = time.time()
    os.utime(path, (now, now))
    collect([runs], cache)
    # As many bytes, and the same time of change: a clock's tick may hold two writes.
    text = path.read_text()
    assert '"value": 60.0' in text
    path.write_text(text.replace('"value": 60.0', '"value": 61.0'))
    os.utime(path, (now, now))
    assert build_frames(collect([runs], cache)).runs.set_index("run_id").top1_percent[bn.run_id] == 61.0


@pytest.mark.parametrize("damage", ["cut", "removed", "foreign"])
def test_a_damaged_cache_is_read_anew(runs: Path, cache: Path, damage: str) -> None:
    first = collect([runs], cache)
    (path,) = cache.rglob("curves.arrow")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "removed":
        path.unlink()
    else:
        path.write_text("not ours")
    again = collect([runs], cache)
    assert again.num_read == 9
    assert same(first, again)
    assert collect([runs], cache).num_read == 0


def test_many_small_changes_are_tidied_up(runs: Path, cache: Path) -> None:
    (bn, *_) = expand_runs(batch=ONE_BATCH)
    collect([runs], cache)
    for number in range(20):
        with RecordWriter(bn, runs / bn.folder_name) as record:
            record.status("completed", note=number)
        at_rest(runs / bn.folder_name)
        assert collect([runs], cache).num_read == 1
    assert len(list(cache.rglob("seen.arrow"))) <= 13
    assert same(collect([runs], cache), collect([runs]))


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert same(collect([runs], tmp_path / "file"), collect([runs]))
    assert (tmp_path / "file").read_text() == "mine"


def test_two_roots_that_overlap_show_each_run_once(runs: Path, cache: Path, tmp_path: Path) -> None:
    (bn, *_) = expand_runs(batch=ONE_BATCH)
    (tmp_path / "link").symlink_to(runs)
    roots = [runs / bn.folder_name, tmp_path / "link", runs]
    for _ in range(2):
        assert collect(roots, cache).num_runs == 9
    assert collect(roots).num_runs == 9


def test_linked_runs_are_read_once_and_kept(runs: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    one, *_ = sorted(runs.iterdir())
    for name, target in (("all", runs), ("one", one), ("up", tmp_path)):
        (tmp_path / "root" / name).symlink_to(target)
    found = collect([tmp_path / "root"], cache)
    assert (found.num_runs, found.num_read) == (9, 9)
    folders = found.tables.runs["folder"].to_pylist()
    assert folders[0] == f"{tmp_path}/root/all/{one.name}"
    again = collect([tmp_path / "root"], cache)
    assert again.num_read == 0
    assert same(found, again)


def test_a_link_that_leads_elsewhere_is_read_anew(runs: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    link = tmp_path / "root" / "run"
    ids = []
    for folder in sorted(runs.iterdir())[:2]:
        link.unlink(missing_ok=True)
        link.symlink_to(folder)
        ids += collect([tmp_path / "root"], cache).tables.runs["run_id"].to_pylist()
    assert len(set(ids)) == 2


def test_some_folders_share_the_cache_of_the_folder_around_them(runs: Path, cache: Path) -> None:
    some = sorted(runs.iterdir())[:2]
    assert collect_folders(some, cache).num_read == 2
    again = collect_folders([*some, some[0]], cache)
    assert (again.num_runs, again.num_read) == (2, 0)
    assert same(again, collect_folders(some))
    whole = collect([runs], cache)
    assert (whole.num_runs, whole.num_read) == (9, 7)
    assert collect_folders(some, cache).num_read == 0
    assert collect([runs], cache).num_read == 0  # none of them was forgotten


def test_folders_that_are_gone_are_no_runs(runs: Path, cache: Path) -> None:
    for kept in (None, cache):
        with pytest.raises(UserError, match="no runs found"):
            collect_folders([runs / "gone"], kept)


def test_the_order_is_that_of_the_folders(runs: Path, cache: Path) -> None:
    folders = collect([runs]).tables.runs["folder"].to_pylist()
    assert folders == sorted(folders)
    collect([runs / Path(folders[4]).name], cache)
    assert collect([runs], cache).tables.runs["folder"].to_pylist() == folders


def test_a_folder_that_cannot_be_listed_is_named(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (runs / "locked").mkdir()
    listed = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("/locked"):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = collect([runs])
    assert found.num_runs == 9
    assert [one.reason for one in found.skipped] == [f"{runs}/locked: cannot be listed: Permission denied"]


def test_a_root_that_was_emptied_has_no_runs(tmp_path: Path, cache: Path) -> None:
    batch = {"global_batch_size": 64, "norm_batch_size": [2, 4, 8, 16, 32, 64]}
    for run in expand_runs(batch=batch, seeds=list(range(10))):
        write_run(tmp_path / "runs", run, top1_percent=[1.0])
    assert collect([tmp_path / "runs"], cache).num_runs == 130
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match="no runs found"):
        collect([tmp_path / "runs"], cache)


def test_a_failure_of_a_moment_ago_is_read_again(runs: Path, cache: Path) -> None:
    """Other ranks may write down what they died of after the first one's status."""
    (bn, *_) = expand_runs(batch=ONE_BATCH)
    folder = runs / bn.folder_name
    with RecordWriter(bn, folder) as record:
        record.status("failed", reason="a rank was lost")
    for path in (*folder.iterdir(), folder):
        then = path.stat().st_mtime - 60
        os.utime(path, (then, then))
    collect([runs], cache)
    assert collect([runs], cache).num_read == 1


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("status.json", {"attempts": 1e30}),
        ("status.json", {"state": "failed", "reason": "x\udce9.jpg"}),
        ("run.json", {"seed": 2**63 + 1}),
    ],
)
def test_one_odd_record_does_not_end_a_report(runs: Path, name: str, changes: dict[str, object]) -> None:
    (bn, *_) = expand_runs(batch=ONE_BATCH)
    path = runs / bn.folder_name / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    found = collect([runs])
    assert found.num_runs + len(found.skipped) == 9
    assert build_frames(found).runs.state.isin(["completed", "failed"]).all()
