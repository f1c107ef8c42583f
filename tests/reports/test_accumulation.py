"""Slopes over depth, against numbers worked out by hand."""

import math
from pathlib import Path

import pytest

from reports.collect import collect
from reports.findings.accumulation import accumulation, run_slopes
from reports.findings.baseline import Baseline
from reports.frames import Frames, build_frames
from reports.tables.baseline_table import accumulation_display
from tests.helpers.records import expand_runs, write_run

BATCH = {"global_batch_size": 64, "norm_batch_size": 4}
LAYERS = {"BN": ["stem", "a", "b", "c"], "XBN-P2-GN8": ["a", "b", "c"], "GN8": []}
# Over a, b and c: 1, 1.5 and 1.1 for BN; 0.2, 0.2 and 0 for XBN. With the stem, which XBN lacks, BN has
# Σ (place − 1.5) σ / 5: 0.7, 1.2 and 0.66.
SIGMA = {
    "BN": [[1.0, 1.0, 2.0, 3.0], [1.0, 1.0, 4.0, 4.0], [1.0, 1.0, 1.0, 3.2]],
    "XBN-P2-GN8": [[1.0, 1.2, 1.4], [1.0, 0.0, 1.4], [1.0, 2.0, 1.0]],
    "GN8": [[], [], []],
}


def frames_of(root: Path, norms: tuple[str, ...] = ("BN", "XBN-P2-GN8", "GN8"), bad: bool = False) -> Frames:
    for run in expand_runs(batch=BATCH):
        label = run.model.norm.label
        if label in norms:
            sigma = SIGMA[label][run.seed]
            if bad and run.seed == 2 and label == "BN":
                sigma = [*sigma[:2], math.nan, sigma[3]]
            write_run(root, run, layers=LAYERS[label], esm_sigma=sigma)
    return build_frames(collect([root]))


def test_slopes_of_a_run_are_over_its_own_layers(tmp_path: Path) -> None:
    frames = frames_of(tmp_path)
    found = run_slopes(frames).merge(frames.runs[["run", "norm", "seed"]], on="run")
    found = found.set_index(["norm", "seed"])
    sigma = found.sigma_slope
    assert [sigma["BN", s] for s in range(3)] == pytest.approx([0.7, 1.2, 0.66])
    assert [sigma["XBN-P2-GN8", s] for s in range(3)] == pytest.approx([0.2, 0.2, 0.0], abs=1e-12)
    assert math.isnan(sigma["GN8", 0])
    # The makers write a quarter of ESM σ as the scaled one.
    assert found.scaled_slope["BN", 1] == pytest.approx(0.3)


def test_a_layer_keeps_its_place_in_the_network_whatever_was_replaced(tmp_path: Path) -> None:
    bn, xbn, _ = expand_runs(batch=BATCH, seeds=[0])
    write_run(tmp_path, bn, layers=["stem", "a", "b", "c"], esm_sigma=[9.0, 1.0, 7.0, 3.0])
    write_run(tmp_path, xbn, layers=["a", "c"], esm_sigma=[1.0, 1.4])
    frames = build_frames(collect([tmp_path]))
    assert run_slopes(frames).sigma_slope[1] == pytest.approx(0.4 / 2)
    table = accumulation(frames, Baseline("BN")).set_index("norm")
    # Of scaled ESM σ, which the makers write as a quarter.
    assert table.difference_mean["XBN-P2-GN8"] == pytest.approx((0.4 / 2 - 2 / 2) / 4)


def test_mean_interval_and_paired_difference(tmp_path: Path) -> None:
    table = accumulation(frames_of(tmp_path), Baseline("BN")).set_index("norm")
    assert list(table.index) == ["BN", "XBN-P2-GN8"]
    bn, xbn = table.loc["BN"], table.loc["XBN-P2-GN8"]
    # 0.7, 1.2, 0.66: mean 2.56 / 3; squares about it 0.023511, 0.120178 and 0.037378, so sd √0.0905333.
    half = 4.302653 * math.sqrt(0.0905333333) / math.sqrt(3)
    assert (bn.sigma_slope_mean, bn.sigma_slope_high) == pytest.approx((2.56 / 3, 2.56 / 3 + half), rel=1e-6)
    assert (bn.scaled_slope_mean, bn.scaled_slope_high) == pytest.approx(
        (2.56 / 12, 2.56 / 12 + half / 4), rel=1e-6
    )
    # Over the layers that both have a quarter of −0.8, −1.3, −1.1: mean −16/15, sd √(0.19/3).
    assert xbn.difference_mean == pytest.approx(-16 / 15 / 4)
    t = (16 / 15) / math.sqrt(0.19 / 9)
    assert xbn.difference_p_holm == pytest.approx(1 - t / math.sqrt(t * t + 2))
    assert math.isnan(bn.difference_n)


def test_a_layer_that_is_nan_leaves_the_run_out(tmp_path: Path) -> None:
    table = accumulation(frames_of(tmp_path, bad=True), Baseline("BN")).set_index("norm")
    assert table.sigma_slope_n["BN"] == 2
    assert table.sigma_slope_mean["BN"] == pytest.approx(0.95)
    assert table.difference_n["XBN-P2-GN8"] == 2
    # The differences of the other two are a quarter of −0.8 and −1.3.
    both = (table.difference_low["XBN-P2-GN8"], table.difference_high["XBN-P2-GN8"])
    assert both == pytest.approx((-0.325, -0.2))


def test_the_table_in_words(tmp_path: Path) -> None:
    frames = frames_of(tmp_path)
    display = accumulation_display(frames, accumulation(frames, Baseline("BN")), Baseline("BN"))
    assert display is not None
    headers = [column.header for column in display.columns]
    rows = {row[0]: dict(zip(headers, row, strict=True)) for row in display.texts}
    # 0.8533 ± 0.7474 and, of the differences, −1.0667 ± 0.6252 (√(0.19 / 3) × 4.302653 / √3), each over 4.
    assert rows["BN"]["ESM σ per layer"] == "+0.85 ± 0.75"
    assert rows["BN"]["Scaled ESM σ per layer"] == "+0.21 ± 0.19"
    assert rows["BN"]["Scaled ESM σ per layer, less BN's"] == rows["BN"]["Against BN"] == "—"
    assert rows["XBN-P2-GN8"]["Scaled ESM σ per layer, less BN's"] == "−0.27 ± 0.16"
    assert rows["XBN-P2-GN8"]["Against BN"] == "better"
    assert any("over the BN layers that a norm shares with BN" in note for note in display.notes)


def test_without_a_baseline_there_are_slopes_and_no_differences(tmp_path: Path) -> None:
    frames = frames_of(tmp_path, ("XBN-P2-GN8",))
    display = accumulation_display(frames, accumulation(frames, Baseline(None)), Baseline(None))
    assert display is not None
    assert not any("less" in column.header or "Against" in column.header for column in display.columns)


def test_nothing_probed_makes_no_table(tmp_path: Path) -> None:
    frames = frames_of(tmp_path, ("GN8",))
    assert accumulation_display(frames, accumulation(frames, Baseline(None)), Baseline(None)) is None
