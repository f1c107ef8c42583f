"""Where cells stand against the baseline, against numbers worked out by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from reports.collect import collect
from reports.findings.baseline import against_baseline
from reports.frames import build_frames
from reports.tables import baseline_table as module
from reports.tables.baseline_table import baseline_display
from tests.helpers.paired_cells import ESM, TOP1, Cells, frames_of, p_of_three
from tests.helpers.records import expand_runs, write_run


def by_cell(table: pd.DataFrame) -> dict[tuple[str, int], pd.Series]:
    return {(row.norm, row.norm_batch_size): row for _, row in table.iterrows()}


def test_differences_are_paired_by_seed_and_adjusted_over_the_table(tmp_path: Path) -> None:
    table = against_baseline(frames_of(tmp_path, TOP1, ESM), "BN")
    order = list(zip(table.norm, table.norm_batch_size, strict=True))
    assert order == [("XBN-P2-GN8", 4), ("GN8", 4), ("XBN-P2-GN8", 64), ("GN8", 64)]
    rows = by_cell(table)
    small, large = rows["XBN-P2-GN8", 4], rows["XBN-P2-GN8", 64]
    # 4, 4.5 and 4: mean 25/6, sd √(1/12), half 4.302653 × 0.288675 / √3 = 0.717109.
    assert (small.top1_mean, small.top1_n) == (pytest.approx(25 / 6), 3)
    assert small.top1_high - small.top1_mean == pytest.approx(0.717109, abs=1e-6)
    assert small.top1_effect_size == pytest.approx(25 / 6 / math.sqrt(25 / 24) / math.sqrt(math.pi))
    # t is 25 and, for GN, (5, 5, 5.5) 31 and (−5, −5, −4.5) −29; for XBN at 64, 0, 0.5 and −0.25.
    raw = [p_of_three(25), p_of_three(31), p_of_three(29)]
    assert small.top1_p == pytest.approx(raw[0])
    holm = max(4 * raw[1], 3 * raw[2], 2 * raw[0])  # the smallest of four is the one of 31
    for cell in (("XBN-P2-GN8", 4), ("GN8", 4), ("GN8", 64)):
        assert rows[cell].top1_p_holm == pytest.approx(holm)
    mean, sd = 0.25 / 3, math.sqrt(((-0.25 / 3) ** 2 + (0.5 - 0.25 / 3) ** 2 + (0.25 + 0.25 / 3) ** 2) / 2)
    assert large.top1_p_holm == pytest.approx(p_of_three(mean / (sd / math.sqrt(3))))
    assert [row.top1_verdict for row in rows.values()] == ["better", "better", "inconclusive", "worse"]


def test_the_ratio_of_shift_is_geometric_and_lower_is_better(tmp_path: Path) -> None:
    rows = by_cell(against_baseline(frames_of(tmp_path, TOP1, ESM), "BN"))
    small, large, free = (rows[cell] for cell in (("XBN-P2-GN8", 4), ("XBN-P2-GN8", 64), ("GN8", 4)))
    logs = [-math.log(v) for v in (2.0, 2.2, 1.8)]
    mean = sum(logs) / 3
    half = 4.302653 * math.sqrt(sum((x - mean) ** 2 for x in logs) / 2) / math.sqrt(3)
    found = (small.esm_mean, small.esm_low, small.esm_high)
    assert found == pytest.approx([math.exp(mean + h) for h in (0, -half, half)], rel=1e-6)
    assert (small.esm_verdict, large.esm_verdict, free.esm_verdict) == ("better", "inconclusive", "no pairs")
    # Two rows have a ratio; 1, 2 and ½ have none on the mean.
    assert small.esm_p_holm == pytest.approx(2 * small.esm_p)
    assert large.esm_mean == pytest.approx(1.0)


def test_a_norm_without_bn_is_compared_at_each_norm_batch(tmp_path: Path) -> None:
    rows = by_cell(against_baseline(frames_of(tmp_path, TOP1, ESM), "BN"))
    assert rows["GN8", 4].top1_mean == pytest.approx(31 / 6)
    assert rows["GN8", 64].top1_mean == pytest.approx(-29 / 6)
    turned = by_cell(against_baseline(frames_of(tmp_path, TOP1, ESM), "GN8"))
    assert turned["BN", 4].top1_mean == pytest.approx(-31 / 6)
    assert turned["BN", 64].top1_mean == pytest.approx(29 / 6)
    assert set(turned) == {("BN", 4), ("BN", 64), ("XBN-P2-GN8", 4), ("XBN-P2-GN8", 64)}


def test_only_the_same_batch_per_gpu_is_compared(tmp_path: Path) -> None:
    batch = {"global_batch_size": 64, "batch_size_per_gpu": [16, 64], "norm_batch_size": 16}
    top1: Cells = {("BN", 16): [60.0], ("XBN-P2-GN8", 16): [61.0], ("GN8", 64): [70.0]}
    frames = frames_of(tmp_path, top1, batch=batch)
    table = against_baseline(frames, "BN")
    found = list(zip(table.norm, table.batch_size_per_gpu, table.top1_n, strict=True))
    # The experiment's GN8 at a batch of 16 per GPU was never begun.
    assert found == [("XBN-P2-GN8", 16, 1), ("GN8", 16, 0), ("XBN-P2-GN8", 64, 1), ("GN8", 64, 1)]


def test_what_did_not_complete_is_counted_in_its_row_and_in_no_difference(tmp_path: Path) -> None:
    top1 = {("BN", 4): [60.0, -1.0, 62.0], ("XBN-P2-GN8", 4): [64.0, 65.0, 66.0], ("GN8", 64): [1.0]}
    frames = frames_of(tmp_path, top1)
    table = against_baseline(frames, "BN")
    display = baseline_display(table, "BN")
    assert display is not None
    headers = [column.header for column in display.columns]
    rows = [dict(zip(headers, [c.replace("\u00a0", " ") for c in row], strict=True)) for row in display.texts]
    assert rows[0]["Runs"] == "3 of 3"
    assert rows[0]["BN runs"] == "2 of 3 (1 diverged)"
    assert (rows[0]["Pairs"], rows[0]["Against BN"]) == ("2", "too few seeds")
    assert not {"p", "Effect size"} & set(headers)  # no row has one
    assert rows[0]["Top-1 difference (points)"] == "+4.00 and +4.00"
    assert rows[1]["Runs"] == "1 of 3 (2 not started)"
    assert rows[1]["Top-1 difference (points)"] == "−59.00 (1 seed)"


def test_a_baseline_that_was_not_run_there_leaves_a_row_without_pairs(tmp_path: Path) -> None:
    frames = frames_of(tmp_path, {("BN", 4): [60.0] * 3, ("XBN-P2-GN8", 64): [64.0] * 3})
    frames = replace(frames, runs=frames.runs.assign(is_of_study=True))  # else BN was to be run there
    table = against_baseline(frames, "BN")
    assert (table.top1_n.item(), table.top1_verdict.item()) == (0, "no pairs")
    display = baseline_display(table, "BN")
    assert display is not None
    headers = [column.header for column in display.columns]
    assert (headers[-2:], display.texts[0][-2:]) == (["Pairs", "Against BN"], ["0", "no pairs"])


def test_cells_that_were_never_begun_are_counted(tmp_path: Path) -> None:
    """Two norms at two norm batches are four cells, of which two have no run at all."""
    frames = frames_of(tmp_path, {("BN", 4): [60.0] * 3, ("XBN-P2-GN8", 64): [64.0] * 3})
    table = against_baseline(frames, "BN")
    display = baseline_display(table, "BN")
    assert display is not None
    headers = [column.header for column in display.columns]
    rows = [dict(zip(headers, [c.replace("\u00a0", " ") for c in row], strict=True)) for row in display.texts]
    assert [(row["Norm batch"], row["Runs"], row["BN runs"]) for row in rows] == [
        ("4", "0 of 3 (3 not started)", "3 of 3"),
        ("64", "3 of 3", "0 of 3 (3 not started)"),
    ]
    assert table.top1_verdict.tolist() == ["no pairs", "no pairs"]


def test_what_else_was_run_does_not_change_a_comparison(tmp_path: Path) -> None:
    """A third norm that shares one layer with BN leaves the mean of the other two over both of theirs."""
    batch = {"global_batch_size": 64, "norm_batch_size": 4}
    norms = [{"kind": "bn"}, {"kind": "xbn"}, {"kind": "xbn", "position": "p1"}]
    sigma = {
        "BN": (["a", "b", "c"], [1.0, 3.0, 8.0]),
        "XBN-P2-GN8": (["a", "b"], [1.0, 1.0]),
        "XBN-P1-GN8": (["c"], [2.0]),
    }
    ratios = []
    for count in (2, 3):
        for run in expand_runs(
            model={"arch": "small_resnet20", "norm": norms[:count]}, batch=batch, seeds=[0]
        ):
            layers, values = sigma[run.model.norm.label]
            write_run(tmp_path / str(count), run, layers=layers, esm_sigma=values)
        table = against_baseline(build_frames(collect([tmp_path / str(count)])), "BN").set_index("norm")
        ratios.append(table.esm_mean.to_dict())
    assert ratios[0] == pytest.approx({"XBN-P2-GN8": 1 / 2})
    assert ratios[1] == pytest.approx({"XBN-P2-GN8": 1 / 2, "XBN-P1-GN8": 2 / 8})


def test_the_baseline_alone_makes_no_table(tmp_path: Path) -> None:
    frames = frames_of(tmp_path, {("BN", 4): [60.0] * 3})
    assert baseline_display(against_baseline(frames, "BN"), "BN") is None


def test_a_long_table_shows_the_largest_differences_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 2)
    frames = frames_of(tmp_path, TOP1, ESM)
    display = baseline_display(against_baseline(frames, "BN"), "BN")
    assert display is not None
    differences = [row[5] for row in display.texts]
    assert differences == ["+5.17 ± 0.72", "−4.83 ± 0.72"]
    assert display.notes[-1].endswith("2 more are in standing.csv beside this report.")
    assert any("over all 4 rows" in note for note in display.notes)
