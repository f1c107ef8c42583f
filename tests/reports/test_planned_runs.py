"""What an experiment was to run, from the runs that there are."""

from dataclasses import replace
from pathlib import Path

from reports.aggregate import summarise
from reports.collect import collect
from reports.frames import GROUP, Frames, build_frames
from reports.planned_runs import unstarted_cells
from reports.write.render import render_markdown
from suite.experiment import Run
from tests.helpers.composed import composed
from tests.helpers.records import expand_runs, write_run

BATCH = {"global_batch_size": 64, "batch_size_per_gpu": [16, 64], "norm_batch_size": [4, 16]}
Cell = tuple[str, int, int]


def frames_without(root: Path, *left_out: Cell) -> Frames:
    for run in expand_runs(batch=BATCH, seeds=[0, 1]):
        if cell_of(run) not in left_out:
            write_run(root, run, layers=[] if run.model.norm.label == "GN8" else ["a"])
    return build_frames(collect([root]))


def cell_of(run: Run) -> Cell:
    return run.model.norm.label, run.batch.per_gpu, run.batch.norm


def cells_that_miss(frames: Frames) -> list[tuple[str, int, int, bool, int]]:
    found = unstarted_cells(frames.runs)
    columns = ["norm", "batch_size_per_gpu", "norm_batch_size", "has_bn", "planned"]
    return sorted(tuple(row) for row in found[columns].to_numpy().tolist())


def test_a_whole_experiment_misses_nothing(tmp_path: Path) -> None:
    assert cells_that_miss(frames_without(tmp_path)) == []


def test_each_norm_was_to_be_run_at_each_layout(tmp_path: Path) -> None:
    frames = frames_without(tmp_path, ("XBN-P2-GN8", 64, 4), ("BN", 16, 16), ("GN8", 16, 16))
    assert cells_that_miss(frames) == [
        ("BN", 16, 16, True, 2),
        ("GN8", 16, 16, False, 2),
        ("XBN-P2-GN8", 64, 4, True, 2),
    ]


def test_what_another_experiment_has_run_is_there(tmp_path: Path) -> None:
    frames_without(tmp_path, ("BN", 16, 16))
    for run in expand_runs(name="another", batch={**BATCH, "norm_batch_size": 16}, seeds=[0, 1]):
        if cell_of(run) == ("BN", 16, 16):
            write_run(tmp_path, run, layers=["a"])
    assert cells_that_miss(build_frames(collect([tmp_path]))) == []


def test_the_points_of_a_study_are_no_product(tmp_path: Path) -> None:
    note_study(tmp_path)
    frames = frames_without(tmp_path, ("BN", 16, 16))
    assert cells_that_miss(frames) == []
    lacking = frames.runs[~((frames.runs.norm == "GN8") & (frames.runs.seed == 1))]
    table = summarise(replace(frames, runs=lacking), [])
    assert set(table[table.norm == "GN8"].planned) == {1}


def test_a_cell_that_a_study_has_run_is_there(tmp_path: Path) -> None:
    note_study(tmp_path / "study")
    for run in expand_runs(batch=BATCH, seeds=[0, 1]):
        if cell_of(run) == ("BN", 16, 16):
            write_run(tmp_path / "study", run, layers=["a"])
    frames_without(tmp_path / "runs", ("BN", 16, 16))
    frames = build_frames(collect([tmp_path]))
    assert cells_that_miss(frames) == []
    assert not summarise(frames, []).duplicated(GROUP).any()


def note_study(root: Path) -> None:
    book = root / "studies" / "synthetic-sweep"
    book.mkdir(parents=True)
    (book / "study.json").write_text("{}")


def test_a_report_tells_what_was_never_begun_and_no_verdict_of_it(tmp_path: Path) -> None:
    frames_without(tmp_path / "runs", ("XBN-P2-GN8", 64, 4), ("XBN-P2-GN8", 16, 4))
    report = render_markdown(composed(tmp_path / "runs")).replace("\u00a0", " ")
    verdict, _, tables = report.partition("## Summary")
    assert "not started" not in verdict
    assert "XBN-P2-GN8" in verdict
    for title in ("Accuracy against BN", "Estimation shift", "Cost"):
        assert "| XBN-P2-GN8 | 4 | " in tables.partition(f"# {title}")[2].partition("\n#")[0]
    assert "0 of 2 (2 not started)" in tables
