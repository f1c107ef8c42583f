"""Two sets of runs side by side, against numbers worked out by hand."""

import math
import os
from pathlib import Path

import pandas as pd
import pytest

from reports.findings.compare_verdicts import coverage_notes, shared_seeds
from reports.findings.two_sides import compare, comparison_table
from tests.helpers.records import expand_runs, write_run
from tests.helpers.two_sides import BATCH, BN, XBN, rows_of, verdict, write


def test_cells_side_by_side_by_hand(tmp_path: Path) -> None:
    write(tmp_path / "a", [60.0, 61.0, 62.0], [2.0, 2.0, 4.0])
    write(tmp_path / "b", [64.0, 65.5, 66.0], [1.0, 1.0, 2.0])
    comparison = compare(tmp_path / "a", tmp_path / "b")
    table = rows_of(comparison)
    top1, sigma = table.loc[("BN", "top1_percent")], table.loc[("BN", "esm_sigma_scaled")]
    # 4, 4.5 and 4: mean 25/6, half 0.717109.
    assert (top1.kind, top1.n, top1.a, top1.b) == ("difference", 3, 61.0, pytest.approx(195.5 / 3))
    assert (top1.estimate, top1.low) == pytest.approx((25 / 6, 25 / 6 - 0.717109), abs=1e-6)
    assert (sigma.kind, sigma.estimate) == ("ratio", pytest.approx(0.5))
    assert math.isnan(sigma.low)  # the same in each of three seeds: no spread, and no interval
    # 1 − 25 / √627 for each top-1, ¼ for the two ESM, whose ratio is the same in each of three seeds, and 1
    # for the three speeds, which are equal: Holm takes 6 × 0.0015961.
    assert verdict(comparison, "Final top-1") == (
        "Final top-1 (%): B is better, +4.17 points (95 % interval 3.45 to 4.88, 3 seeds, p = 0.0096)."
    )
    assert verdict(comparison, "Mean scaled ESM σ").startswith(
        "Mean scaled ESM σ: inconclusive, × 0.500 (3 seeds, p = 1.00)"
    )


def test_what_was_read_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for side in "ab":
        write(tmp_path / side, [60.0, 61.0, 62.0])
    for path in [*tmp_path.rglob("*")]:  # as files look a while after they were written
        os.utime(path, (1e9, 1e9))
    before = compare(tmp_path / "a", tmp_path / "b", tmp_path / "cache")
    monkeypatch.setattr("reports.collect._read", lambda folder: pytest.fail(f"{folder} was read again"))
    again = compare(tmp_path / "a", tmp_path / "b", tmp_path / "cache")
    pd.testing.assert_frame_equal(comparison_table(before), comparison_table(again))


def test_bit_equal_is_said_to_be_equal(tmp_path: Path) -> None:
    for side in "ab":
        write(tmp_path / side, [60.1, 61.2, 62.3])
    comparison = compare(tmp_path / "a", tmp_path / "b")
    for title in ("Final top-1", "Mean scaled ESM σ", "Images/s", "Epoch time"):
        assert verdict(comparison, title).endswith(": equal to the last bit in all 3 pairs.")
    assert coverage_notes(comparison) == ["3 runs matched, of which 3 completed on both sides."]


def test_the_same_within_what_the_interval_leaves_open(tmp_path: Path) -> None:
    write(tmp_path / "a", [60.0, 60.0, 60.0], [1.0, 1.0, 1.0])
    write(tmp_path / "b", [60.02, 60.0, 59.98], [1.01, 1.01, 1.0])
    comparison = compare(tmp_path / "a", tmp_path / "b")
    # 0.02, 0 and −0.02: half 4.302653 × 0.02 / √3 = 0.049683, rounded up.
    assert "Final top-1 (%): the same within 0.05 points, 0.00 points" in verdict(comparison, "Final top-1")
    # Logs: mean 0.0066336, sd 0.0057449, so up to exp(0.020905) − 1 = 2.11 %, more than counts as the same.
    assert "Mean scaled ESM σ: inconclusive, × 1.01" in verdict(comparison, "Mean scaled ESM σ")


def test_lower_is_worse_for_speed_and_better_for_memory(tmp_path: Path) -> None:
    measured = {"a": [(2400.0, 1.75), (2410.0, 1.76), (2405.0, 1.75)], "b": [(1200.0, 0.875)] * 3}
    for side, by_seed in measured.items():
        for run in expand_runs(model=BN, batch=BATCH, seeds=[0, 1, 2]):
            speed, memory = by_seed[run.seed]
            write_run(tmp_path / side, run, throughput={"images_per_s": speed, "peak_memory_gib": memory})
    comparison = compare(tmp_path / "a", tmp_path / "b")
    assert "Images/s: B is worse, × 0.499 (" in verdict(comparison, "Images/s")
    assert "Peak memory (GiB): B is better, × 0.499 (" in verdict(comparison, "Peak memory")


def test_two_seeds_claim_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a", [60.0, 60.0])
    write(tmp_path / "b", [70.0, 71.0])
    text = verdict(compare(tmp_path / "a", tmp_path / "b"), "Final top-1")
    assert text == ("Final top-1 (%): too few seeds for a claim, +10.50 points (10.00 and 11.00, 2 seeds).")


def test_cells_that_disagree_are_told(tmp_path: Path) -> None:
    write(tmp_path / "a", [60.0] * 3)
    write(tmp_path / "a", [60.0] * 3, model=XBN)
    write(tmp_path / "b", [61.0, 62.0, 64.0])
    write(tmp_path / "b", [59.0, 58.0, 57.0], model=XBN)
    text = verdict(compare(tmp_path / "a", tmp_path / "b"), "Final top-1")
    # By seed 1 − 1, 2 − 2 and 4 − 3, halved: 0, 0 and 0.5, whose half is 4.302653 / 6 = 0.7171.
    assert text == (
        "Final top-1 (%): inconclusive, +0.17 points (95 % interval −0.55 to 0.88, 3 seeds over 2 cells, "
        "p = 1.00); better in 1 of 2 cells."
    )


def test_cells_of_one_seed_are_one_value(tmp_path: Path) -> None:
    """Two seeds in two cells are four pairs, and still too few seeds for a claim."""
    for side, add in (("a", 0.0), ("b", 5.0)):
        write(tmp_path / side, [60.0 + add, 61.0 + add])
        write(tmp_path / side, [70.0 + add, 71.0 + 2 * add], [2.0 ** (add / 5), 1.0], model=XBN)
    comparison = compare(tmp_path / "a", tmp_path / "b")
    # By seed 5 and (5 + 10) / 2.
    assert verdict(comparison, "Final top-1") == (
        "Final top-1 (%): too few seeds for a claim, +6.25 points (5.00 and 7.50, "
        "2 seeds over 2 cells); better in 2 of 2 cells."
    )
    # Seed 0: √(1 × 2); seed 1: 1. Of the two 2^¼.
    text = verdict(comparison, "Mean scaled ESM σ")
    assert "Mean scaled ESM σ: too few seeds for a claim, × 1.19 (1.00 and 1.41, 2 seeds over" in text


def test_a_cell_that_lacks_a_seed_is_left_out_of_the_test(tmp_path: Path) -> None:
    write(tmp_path / "a", [60.0, 60.0, 60.0])
    write(tmp_path / "a", [60.0, 60.0, 60.0], model=XBN)
    write(tmp_path / "b", [61.0, 62.0, 63.0])
    write(tmp_path / "b", [69.0, 69.0, -1.0], model=XBN)
    text = verdict(compare(tmp_path / "a", tmp_path / "b"), "Final top-1")
    # 1, 2 and 3 alone: 2 ± 4.302653 / √3; p = 0.0742 times 2, the two top-1, times 5 equal ones.
    assert text.startswith("Final top-1 (%): inconclusive, +2.00 points (95 % interval −0.48 to 4.48, ")
    assert "3 seeds over the 1 of 2 cells that they share, p = " in text
    assert text.endswith("; better in 2 of 2 cells.")


def test_more_seeds_of_one_cell_do_not_outweigh_the_cells_of_the_others(tmp_path: Path) -> None:
    write(tmp_path / "a", [60.0] * 4)
    write(tmp_path / "a", [60.0] * 3, model=XBN)
    write(tmp_path / "b", [61.0, 61.0, 61.0, 99.0])
    write(tmp_path / "b", [61.0, 61.0, 62.0], model=XBN)
    text = verdict(compare(tmp_path / "a", tmp_path / "b"), "Final top-1")
    assert "+1.17 points (" in text
    assert ", 3 of 4 seeds over 2 cells, " in text


@pytest.mark.parametrize(
    ("cells", "shared"),
    [
        ([], []),
        ([[0, 1, 2]], [0, 1, 2]),
        ([[0, 1, 2], [0, 1, 2, 3]], [0, 1, 2]),  # 6 pairs rather than 4
        ([[0, 1], [0, 1], [0, 1, 2]], [0, 1, 2]),  # 3 pairs rather than 6, and enough seeds for a claim
        ([[0, 1, 2], [3, 4, 5, 6]], [3, 4, 5, 6]),
        ([[1, 2, 3, 4], [0, 2, 3, 4], [0, 1, 3, 4]], [0, 3, 4]),  # what two share
        ([[0, 1], [1, 2]], [0, 1]),
        ([[10, 11, 12, 13, 14], [0, 1, 2, 3], [0, 1, 2, 4]], [0, 1, 2]),  # 6 pairs rather than 5
    ],
)
def test_seeds_are_those_with_the_most_pairs(cells: list[list[int]], shared: list[int]) -> None:
    assert sorted(shared_seeds([frozenset(cell) for cell in cells])) == shared
