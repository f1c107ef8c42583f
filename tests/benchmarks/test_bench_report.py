"""What the bench of `report` counts, on a few made-up runs."""

from pathlib import Path
from typing import Any

import pytest

import benchmarks.report as bench
from benchmarks.synthetic_runs import EPOCHS, PROBED_EPOCHS, write_runs
from reports.collect import Collection, collect
from reports.frames import build_frames
from suite.record import Record
from tests.helpers.programs import required


def test_made_up_runs_are_as_training_leaves_them(tmp_path: Path) -> None:
    write_runs(tmp_path, 40)
    collection = collect([tmp_path])
    assert (collection.num_runs, collection.skipped) == (40, [])
    frames = build_frames(collection)
    assert set(frames.runs.state) == {"completed"}
    assert (frames.runs.notes == "").all()
    assert frames.runs.groupby(["norm", "norm_batch_size"]).ngroups == 40
    bn = Record.read(Path(frames.runs[frames.runs.norm == "BN"].folder.iloc[0]))
    # A ResNet-50 has 53 norm sites: the stem, three in each of 16 blocks, and four shortcuts.
    assert len(bn.layers) == 53
    assert {line["epoch"] for line in bn.lines} == set(range(1, EPOCHS + 1))
    assert {line["epoch"] for line in bn.lines if isinstance(line["value"], list)} == set(PROBED_EPOCHS)
    assert len(frames.layers[frames.layers.run == frames.runs.run.iloc[0]]) == 4 * 53


def test_both_sides_are_timed_and_the_command_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "FEW_RUNS", 5)
    required("chromium", "chromium", "the page was not timed")
    read: list[int] = []

    def collect_and_count(*arguments: Any) -> Collection:
        found = collect(*arguments)
        read.append(found.num_read)
        return found

    monkeypatch.setattr(bench, "collect", collect_and_count)
    result = bench.bench_report(num_runs=20, rounds=2)
    # Warming up; then in each round all of them, and those that have changed.
    assert read == [5, 20, bench.NUM_CHANGED, 20, bench.NUM_CHANGED]
    assert len(result.first.a_values) == len(result.again.a_values) == 2
    assert result.again.b_values == result.first.a_values
    # Some 50 kB of measurements a run.
    assert 0.5 < result.lines_mb < 2
    assert 0.1 < result.memory_gib < 4
    assert 0.5 < result.page_mb < 5
    assert result.interactive_s is not None
    assert result.interactive_s > 0


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(bench.UserError, match=r"ended with 2: .*no such folder"):
        bench._report(tmp_path / "nowhere", tmp_path / "out", tmp_path)
