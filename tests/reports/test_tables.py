"""The numbers that a reader acts on, against hand-computed ones."""

import io
import math
from pathlib import Path

import pytest
from rich.console import Console

import reports
from reports.aggregate import UNFINISHED, summarise
from reports.collect import Skipped, collect
from reports.frames import Frames, build_frames
from reports.numbers import estimate_cell, number, short
from reports.stats import Estimate
from reports.tables.cell_tables import (
    SUMMARY_METRICS,
    cross_half_display,
    print_summary,
    shift_display,
    summary_display,
)
from reports.tables.cost_tables import cost_display, throughput_display
from reports.tables.inventory import report_header
from reports.tables.run_list import WORST_FIRST, run_list
from suite.metrics import CROSS, METRICS, PROBED
from suite.record import STATES, RecordWriter
from tests.helpers.records import PROVENANCE, expand_runs, write_run, write_waiting

ONE_BATCH = {"global_batch_size": 64, "norm_batch_size": 4}


def frames_below(root: Path) -> Frames:
    return build_frames(collect([root]))


def golden(root: Path) -> Frames:
    """BN 60, 62, 64 %; XBN 66, 67 % and one diverged run; GN one run of 58 %, two never started."""
    tops = {"BN": [60.0, 62.0, 64.0], "XBN-P2-GN8": [66.0, 67.0, 12.0], "GN8": [58.0]}
    for run in expand_runs(batch=ONE_BATCH):
        label = run.model.norm.label
        if run.seed < len(tops[label]):
            state = "diverged" if tops[label][run.seed] == 12.0 else "completed"
            layers = {"BN": ["stem", "a", "b"], "XBN-P2-GN8": ["a", "b"], "GN8": []}[label]
            sigma = [1.0, 2.0 + run.seed, 3.0 + run.seed] if label == "BN" else [1.0] * len(layers)
            top1 = [70.0, tops[label][run.seed]]
            write_run(root, run, top1_percent=top1, layers=layers, esm_sigma=sigma, state=state)
    return frames_below(root)


def test_summary_golden(tmp_path: Path) -> None:
    table = summarise(golden(tmp_path), SUMMARY_METRICS).set_index("norm")
    bn, xbn, gn = table.loc["BN"], table.loc["XBN-P2-GN8"], table.loc["GN8"]
    half = 4.302653 * 2 / math.sqrt(3)
    assert (bn.planned, bn.completed, bn.top1_percent_n) == (3, 3, 3)
    assert bn.top1_percent_mean == 62
    assert (bn.top1_percent_low, bn.top1_percent_high) == pytest.approx((62 - half, 62 + half), rel=1e-6)
    assert bn.best_top1_percent_mean == 70
    assert bn.top1_precise_percent_mean == 62.5
    # Common layers a and b: seeds give a quarter of 2.5, 3.5 and 4.5.
    assert bn.esm_sigma_scaled_common_mean == 0.875
    assert (xbn.planned, xbn.completed, xbn.diverged) == (3, 2, 1)
    assert (xbn.top1_percent_mean, xbn.esm_sigma_scaled_common_mean) == (66.5, 0.25)
    assert (xbn.top1_percent_low, xbn.top1_percent_high, xbn.top1_percent_n) == (66, 67, 2)
    assert (gn.planned, gn.completed, gn.not_started) == (3, 1, 2)
    assert math.isnan(gn.esm_sigma_scaled_common_mean)
    assert math.isnan(gn.top1_percent_low)


def test_summary_as_text_says_what_is_missing(tmp_path: Path) -> None:
    table = summary_display(golden(tmp_path))
    rows = {row[0]: [cell.replace("\u00a0", " ") for cell in row] for row in table.texts}
    assert rows["BN"][2:4] == ["3 of 3", "62.0 ± 5.0"]
    assert rows["XBN-P2-GN8"][2:4] == ["2 of 3 (1 diverged)", "66.00 and 67.00"]
    assert rows["GN8"][2:4] == ["1 of 3 (2 not started)", "58.00 (1 seed)"]
    assert rows["GN8"][6] == "—"
    assert (
        "small_resnet20: common layers are the 2 BN layers that BN and XBN-P2-GN8 both have." in table.notes
    )
    assert any("no estimated statistics" in note for note in table.notes)


def test_a_column_that_never_varies_moves_to_the_caption(tmp_path: Path) -> None:
    table = summary_display(golden(tmp_path))
    assert "Model" not in [column.header for column in table.columns]
    assert "model small_resnet20" in table.caption
    assert "batch per GPU 64" in table.caption


def test_shift_table_keeps_both_means_apart(tmp_path: Path) -> None:
    table = shift_display(golden(tmp_path))
    assert table is not None
    headers = [column.header for column in table.columns]
    bn = dict(zip(headers, table.texts[0], strict=True))
    assert bn["BN layers"] == "3"
    assert bn["ESM σ, common layers"].startswith("3.5 ± ")
    assert bn["Scaled ESM σ, common layers"].startswith("0.88 ± ")  # a quarter
    assert bn["Scaled ESM σ, all its BN layers"].startswith("0.67 ± ")  # of (1 + 3 + 4) / 3, the middle seed
    assert "ESM σ, all its BN layers" not in bn


def test_throughput_is_apart_by_hardware_and_has_no_mean_over_machines(tmp_path: Path) -> None:
    first, second, third = expand_runs(model={"arch": "small_resnet20"}, batch=ONE_BATCH)
    write_run(tmp_path, first)
    write_run(tmp_path, second)
    write_run(tmp_path, third, provenance={**PROVENANCE, "device": "NVIDIA L4", "world_size": 2})
    frames = frames_below(tmp_path)
    table = throughput_display(frames)
    assert table is not None
    headers = [column.header for column in table.columns]
    rows = [dict(zip(headers, row, strict=True)) for row in table.texts]
    assert [(r["Device"], r["Ranks"], r["Seeds"]) for r in rows] == [
        ("NVIDIA H200", "1", "2"),
        ("NVIDIA L4", "2", "1"),
    ]
    assert rows[1]["Waiting for data (%)"] == "6.0"
    assert rows[1]["GFLOP per image"] == "0.240"
    assert summary_display(frames).texts[0][-1] == "mixed hardware"


def test_the_same_run_on_more_ranks_shows_how_it_scales(tmp_path: Path) -> None:
    """1,200 images/s on one rank and 1,800 on two: 900 each, three quarters."""
    bn, other = expand_runs(model={"arch": "small_resnet20"}, batch=ONE_BATCH, seeds=[0, 1])
    for ranks, speed in ((1, 1200.0), (2, 1800.0)):
        provenance = {**PROVENANCE, "world_size": ranks}
        write_run(tmp_path / str(ranks), bn, provenance=provenance, throughput={"images_per_s": speed})
    table = throughput_display(frames_below(tmp_path))
    assert table is not None
    at = [column.header for column in table.columns].index("Scaling efficiency (%)")
    assert [row[at] for row in table.texts] == ["100.0", "75.0"]
    write_run(tmp_path / "alone", other)
    assert "Scaling" not in str(throughput_display(frames_below(tmp_path / "alone")))


def test_a_norm_without_bn_has_no_norm_batch(tmp_path: Path) -> None:
    for run in expand_runs(batch={"global_batch_size": 64, "norm_batch_size": [4, 64]}, seeds=[0]):
        write_run(tmp_path, run, layers=[] if run.model.norm.label == "GN8" else ["a", "b"])
    table = summary_display(frames_below(tmp_path))
    cells = [(row[0], row[1]) for row in table.texts]
    assert cells == [("BN", "4"), ("XBN-P2-GN8", "4"), ("BN", "64"), ("XBN-P2-GN8", "64"), ("GN8", "—")]
    assert [one.get("norm_batch_size") for one in table.belongs] == ["4", "4", "64", "64", None]


def test_states_are_counted_in_the_table_they_are_missing_from(tmp_path: Path) -> None:
    runs = expand_runs(model={"arch": "small_resnet20"}, batch=ONE_BATCH, seeds=list(range(8)))
    for run, state in zip(runs, ("running", "completed", "failed", "preempted", "diverged"), strict=False):
        write_run(tmp_path, run, state=state)
    write_waiting(tmp_path, runs[5])
    write_waiting(tmp_path, runs[6], "cancelled")
    write_run(tmp_path, runs[7], state="stopped")
    with RecordWriter(runs[0], tmp_path / runs[0].folder_name):  # holds the lock, as a live run does
        frames = frames_below(tmp_path)
    row = summarise(frames, []).iloc[0]
    assert (row.planned, *(row[state] for state in STATES)) == (8, 1, 1, 1, 1, 1, 1, 1, 1)
    said = "1 of 8 (1 failed, 1 diverged, 1 cancelled, 1 preempted, 1 stopped, 1 running, 1 queued)"
    for table in (summary_display(frames), shift_display(frames), cost_display(frames)):
        assert table is not None
        assert [c.header for c in table.columns][2] == "Runs"
        assert table.texts[0][2].replace("\u00a0", " ") == said
    throughput = throughput_display(frames)
    assert throughput is not None
    assert throughput.caption.endswith("device NVIDIA H200, ranks 1.")  # though some runs have none
    missing = "1 failed, 1 diverged, 1 cancelled, 1 preempted, 1 stopped, 1 running, 1 queued"
    assert throughput.notes[-1] == f"Runs that are not in this table: {missing}."


def test_every_state_has_its_place_everywhere() -> None:
    assert {*UNFINISHED, "completed"} == {*STATES, "not_started"}
    assert set(WORST_FIRST) == set(STATES)
    css = (Path(reports.__file__).parent / "templates" / "report.css").read_text()
    assert all(f".state.{state}::before" in css for state in STATES)


def test_the_run_list_begins_with_what_wants_a_look(tmp_path: Path) -> None:
    runs = expand_runs(model={"arch": "small_resnet20"}, batch=ONE_BATCH, seeds=list(range(4)))
    write_run(tmp_path, runs[0], job="12_0", nodes="n[1-2]")
    write_waiting(tmp_path, runs[1])
    write_waiting(tmp_path, runs[2], "cancelled", "job 12_2 was cancelled")
    write_run(tmp_path, runs[3], state="failed", reason="out of memory", job="12_3", nodes="n4")
    collection = collect([tmp_path])
    table = run_list(build_frames(collection), [])
    headers = [column.header for column in table.columns]
    rows = [dict(zip(headers, row, strict=True)) for row in table.texts]
    assert [(r["State"], r["Job"], r["Nodes"]) for r in rows] == [
        ("failed", "12_3", "n4"),
        ("cancelled", "—", "—"),
        ("queued", "—", "—"),
        ("completed", "12_0", "n[1-2]"),
    ]
    assert report_header(collection, build_frames(collection)).counts == [
        ("completed", 1),
        ("queued", 1),
        ("cancelled", 1),
        ("failed", 1),
    ]


def test_the_run_list_has_no_empty_columns(tmp_path: Path) -> None:
    (run,) = expand_runs(model={"arch": "small_resnet20"}, batch=ONE_BATCH, seeds=[0])
    write_run(tmp_path, run)
    table = run_list(frames_below(tmp_path), [Skipped(tmp_path / "x", "why")])
    assert not {"Job", "Nodes"} & {column.header for column in table.columns}
    assert {len(row) for row in table.texts} == {len(table.columns)}


@pytest.mark.parametrize("metric", PROBED)
def test_every_metric_of_the_probe_has_a_column(tmp_path: Path, metric: str) -> None:
    (run,) = expand_runs(model={"arch": "small_resnet20"}, batch=ONE_BATCH, seeds=[0])
    write_run(tmp_path, run, layers=["a", "b"], esm_sigma=[1.0, 2.0], per_layer={metric: [30.0, 50.0]})
    frames = frames_below(tmp_path)
    table = cross_half_display(frames) if metric in CROSS else shift_display(frames)
    assert table is not None
    cells = dict(zip([column.header for column in table.columns], table.texts[0], strict=True))
    # `Scaled ESM σ, cross-half` is the column of `ESM σ, scaled, cross-half`.
    title = ("Scaled " if "scaled" in metric else "") + METRICS[metric].title.replace(", scaled", "")
    assert cells[f"{title}, common layers"] == "40.0 (1 seed)"


def test_records_without_cross_half_values_have_no_such_table(tmp_path: Path) -> None:
    """As all records were before the probe took them; beside newer ones they are counted as lacking them."""
    old, new = expand_runs(model={"arch": "small_resnet20"}, batch=ONE_BATCH, seeds=[0, 1])
    write_run(tmp_path, old, layers=["a", "b"], esm_sigma=[1.0, 3.0])
    frames = frames_below(tmp_path)
    assert cross_half_display(frames) is None
    table = shift_display(frames)
    assert table is not None
    assert not any("cross-half" in column.header for column in table.columns)
    write_run(tmp_path, new, layers=["a", "b"], per_layer={"esm_sigma_scaled_cross": [-0.25, 0.75]})
    table = cross_half_display(frames_below(tmp_path))
    assert table is not None
    cells = dict(zip([column.header for column in table.columns], table.texts[0], strict=True))
    assert cells["Runs"] == "2 of 2"
    assert cells["Scaled ESM σ, cross-half, common layers"] == "0.250 (1 seed)"
    assert "ESM σ, cross-half, common layers" not in cells  # a column of nothing but dashes


def test_terminal_table_fits_eighty_columns_and_shows_brackets(tmp_path: Path) -> None:
    data = {"name": "[bold]x[/bold]", "path": "/data", "num_classes": 3, "image_size": 28}
    for run in expand_runs(data=data, batch=ONE_BATCH):
        write_run(tmp_path, run)
    out = io.StringIO()
    print_summary(Console(file=out, width=80), frames_below(tmp_path))
    text = out.getvalue()
    assert "XBN-P2-GN8" in text
    assert "[bold]x[/bold]" in text
    assert "9 of 9 runs completed." in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_numbers() -> None:
    assert str(estimate_cell(Estimate(71.204, 70.0, 72.408, 3), 3, decimals=2)) == "71.2 ± 1.2"
    assert str(estimate_cell(Estimate(71.2, 70.0, 72.4, 3), 4, decimals=1)) == "71.2 ± 1.2 (3 seeds)"
    assert str(estimate_cell(Estimate(71.2, 70.0, 72.4, 2), 3, decimals=1)) == "70.0 and 72.4 (2 seeds)"
    assert estimate_cell(None, 3) == "—"
    assert short(0.012345) == "0.0123"
    assert short(1234.5) == "1,234"
    assert number(-3.25, 2) == "−3.25"
    assert short(4.1e13) == "4.10e+13"
