"""The made-up runs of the benchmark of `report`, and its refusal."""

from pathlib import Path

import pytest

import benchmarks.report as bench
from benchmarks.synthetic_runs import EPOCHS, PROBED_EPOCHS, write_runs
from reports.collect import collect
from reports.frames import build_frames
from suite.metrics import PROBED
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
    assert len(frames.layers[frames.layers.run == frames.runs.run.iloc[0]]) == len(PROBED) * 53


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(bench.UserError, match=r"ended with 2: .*no such folder"):
        bench._report(tmp_path / "nowhere", tmp_path / "out", tmp_path)


def test_the_whole_benchmark_runs_on_few_runs() -> None:
    """Its page is filtered as a person would: on ten runs, with one round."""
    required("chromium", "chromium", "the page of the benchmark was not filtered")
    result = bench.bench_report(10, 1, few=2)
    assert (result.num_runs, result.interactive_s is not None) == (10, True)
    assert 0.5 < result.page_mb < 5
