"""Two sets of runs side by side, against numbers worked out by hand."""

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from reports.findings.compare_seeds import shared_seeds
from reports.findings.compare_verdicts import coverage_notes, verdict_sentences
from reports.findings.two_sides import MatchedRuns, compare, comparison_table
from reports.tables.two_sides_table import two_sides_display
from reports.write import compare_text
from reports.write.compare_text import write_comparison
from suite.errors import UserError
from tests.helpers.records import PROVENANCE, expand_runs, write_run

ROOT = Path(__file__).parent.parent.parent
BATCH = {"global_batch_size": 64, "norm_batch_size": 4}
BN = {"arch": "small_resnet20", "norm": {"kind": "bn"}}
XBN = {"arch": "small_resnet20", "norm": {"kind": "xbn"}}


def write(
    root: Path, top1: Sequence[float], sigma: Sequence[float] | None = None, model: Any = BN, **changes: Any
) -> None:
    """A run of BN for each seed; a top-1 below zero stands for one that failed."""
    details = changes.pop("details", {})
    runs = expand_runs(model=model, batch=BATCH, seeds=list(range(len(top1))), **changes)
    for run in runs:
        value = top1[run.seed]
        esm = (sigma or [1.0] * len(top1))[run.seed]
        state = "failed" if value < 0 else "completed"
        write_run(root, run, top1_percent=[abs(value)], layers=["a"], esm_sigma=[esm], state=state, **details)


def verdict(comparison: MatchedRuns, title: str) -> str:
    sentences = verdict_sentences(comparison, comparison_table(comparison))
    (found,) = [s for s in sentences if s.startswith(title)]
    return found.replace("\u00a0", " ")


def rows_of(comparison: MatchedRuns) -> pd.DataFrame:
    return comparison_table(comparison).set_index(["norm", "metric"])


def test_cells_side_by_side_by_hand(tmp_path: Path) -> None:
    write(tmp_path / "a", [60.0, 61.0, 62.0], [2.0, 2.0, 4.0])
    write(tmp_path / "b", [64.0, 65.5, 66.0], [1.0, 1.0, 2.0])
    comparison = compare(tmp_path / "a", tmp_path / "b")
    table = rows_of(comparison)
    top1, sigma = table.loc[("BN", "top1_percent")], table.loc[("BN", "esm_sigma")]
    # 4, 4.5 and 4: mean 25/6, half 0.717109.
    assert (top1.kind, top1.n, top1.a, top1.b) == ("difference", 3, 61.0, pytest.approx(195.5 / 3))
    assert (top1.estimate, top1.low) == pytest.approx((25 / 6, 25 / 6 - 0.717109), abs=1e-6)
    assert (sigma.kind, sigma.estimate) == ("ratio", pytest.approx(0.5))
    assert math.isnan(sigma.low)  # the same in each of three seeds: no spread, and no interval
    # 1 − 25 / √627 for each top-1, ¼ for the two ESM, whose ratio is the same in each of three seeds, and 1
    # for the three speeds, which are equal: Holm takes 7 × 0.0015961.
    assert verdict(comparison, "Final top-1") == (
        "Final top-1 (%): B is better, +4.17 points (95 % interval 3.45 to 4.88, 3 seeds, p = 0.011)."
    )
    assert verdict(comparison, "Mean ESM σ").startswith(
        "Mean ESM σ: inconclusive, × 0.500 (3 seeds, p = 1.00)"
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
    for title in ("Final top-1", "Mean ESM σ", "Images/s", "Epoch time"):
        assert verdict(comparison, title).endswith(": equal to the last bit in all 3 pairs.")
    assert coverage_notes(comparison) == ["3 runs matched, of which 3 completed on both sides."]


def test_the_same_within_what_the_interval_leaves_open(tmp_path: Path) -> None:
    write(tmp_path / "a", [60.0, 60.0, 60.0], [1.0, 1.0, 1.0])
    write(tmp_path / "b", [60.02, 60.0, 59.98], [1.01, 1.01, 1.0])
    comparison = compare(tmp_path / "a", tmp_path / "b")
    # 0.02, 0 and −0.02: half 4.302653 × 0.02 / √3 = 0.049683, rounded up.
    assert "Final top-1 (%): the same within 0.05 points, 0.00 points" in verdict(comparison, "Final top-1")
    # Logs: mean 0.0066336, sd 0.0057449, so up to exp(0.020905) − 1 = 2.11 %, more than counts as the same.
    assert "Mean ESM σ: inconclusive, × 1.01" in verdict(comparison, "Mean ESM σ")


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
    assert text == (
        "Final top-1 (%): too few seeds for a claim, +10.50 points (95 % interval 4.15 to 16.85, 2 seeds)."
    )


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
    # By seed 5 and 7.5; 12.706205 × 1.767767 / √2 = 15.8828.
    assert verdict(comparison, "Final top-1") == (
        "Final top-1 (%): too few seeds for a claim, +6.25 points (95 % interval −9.63 to 22.13, "
        "2 seeds over 2 cells); better in 2 of 2 cells."
    )
    # Seed 0: √(1 × 2); seed 1: 1. Of the two 2^¼.
    assert "Mean ESM σ: too few seeds for a claim, × 1.19 (" in verdict(comparison, "Mean ESM σ")


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


def test_what_only_one_side_has_is_counted(tmp_path: Path) -> None:
    write(tmp_path / "a", [60.0, 61.0, -1.0, 63.0])
    write(tmp_path / "a", [60.0], model=XBN)
    write(tmp_path / "b", [60.5, -1.0, 62.0])
    comparison = compare(tmp_path / "a", tmp_path / "b")
    assert coverage_notes(comparison) == [
        "3 runs matched, of which 1 completed on both sides.",
        "1 cell only in A: XBN-P2-GN8 at norm batch 4.",
        "1 run only in A, of cells that both have.",
        "Completed in A and not in B: 1 run (1 failed).",
        "Completed in B and not in A: 1 run (1 failed).",
    ]
    assert rows_of(comparison).n.tolist() == [1] * 7


def test_a_sweep_on_one_side_is_matched_with_the_one_value_of_the_other(tmp_path: Path) -> None:
    for lr in (0.1, 0.2):
        write(tmp_path / "a", [60.0, 61.0], recipe={"epochs": 2, "lr": lr})
    write(tmp_path / "b", [62.0, 63.5], recipe={"epochs": 2, "lr": 0.1, "weight_decay": 0.001})
    comparison = compare(tmp_path / "a", tmp_path / "b")
    assert comparison.pairs.settings.tolist() == ["lr=0.1", "lr=0.1"]
    assert "+2.25 points" in verdict(comparison, "Final top-1")
    assert "2 runs only in A" not in coverage_notes(comparison)[0]


def test_nothing_completed_on_both_sides_is_said(tmp_path: Path) -> None:
    write(tmp_path / "a", [-1.0])
    write(tmp_path / "b", [60.0])
    comparison = compare(tmp_path / "a", tmp_path / "b")
    assert two_sides_display(comparison_table(comparison)) is None
    assert verdict(comparison, "Images/s") == "Images/s: no pair of runs measured it on both sides."


def test_another_recipe_is_matched_by_cell_and_seed_and_said(tmp_path: Path) -> None:
    write(tmp_path / "a", [60.0], recipe={"epochs": 6, "lr": 0.1})
    write(tmp_path / "b", [61.0], recipe={"epochs": 6, "lr": 0.2})
    comparison = compare(tmp_path / "a", tmp_path / "b")
    assert len(comparison.completed) == 1
    assert coverage_notes(comparison)[1].startswith(
        "1 pair differs in something else that decides the result"
    )


def test_a_sweep_on_one_side_is_matched_by_run_id(tmp_path: Path) -> None:
    """Settings name what varies among the runs of one side, so the same run may have two names."""
    write(tmp_path / "a", [60.0], recipe={"epochs": 6, "lr": [0.1, 0.2]})
    write(tmp_path / "b", [60.0], recipe={"epochs": 6, "lr": 0.2})
    comparison = compare(tmp_path / "a", tmp_path / "b")
    assert comparison.completed.settings.tolist() == ["lr=0.2"]
    assert coverage_notes(comparison)[1] == "1 cell only in A: BN at norm batch 4."


def test_mean_esm_is_over_the_layers_of_both_sides(tmp_path: Path) -> None:
    """A has BN alone, so its own common layers hold the stem; B's do not."""
    bn, xbn = (
        expand_runs(model={"arch": "small_resnet20", "norm": {"kind": k}}, batch=BATCH, seeds=[0])[0]
        for k in ("bn", "xbn")
    )
    write_run(tmp_path / "a", bn, layers=["stem", "a"], esm_sigma=[9.0, 1.0])
    write_run(tmp_path / "b", bn, layers=["stem", "a"], esm_sigma=[9.0, 1.0])
    write_run(tmp_path / "b", xbn, layers=["a"], esm_sigma=[0.5])
    comparison = compare(tmp_path / "a", tmp_path / "b")
    assert rows_of(comparison).a["BN", "esm_sigma"] == 1.0
    assert "equal to the last bit in the one pair" in verdict(comparison, "Mean ESM σ")


def test_norms_without_bn_have_no_esm_to_compare(tmp_path: Path) -> None:
    gn = {"arch": "small_resnet20", "norm": {"kind": "gn", "num_groups": 8}}
    for side, top1 in (("a", 60.0), ("b", 61.0)):
        (run,) = expand_runs(model=gn, batch=BATCH, seeds=[0])
        write_run(tmp_path / side, run, top1_percent=[top1])
    comparison = compare(tmp_path / "a", tmp_path / "b")
    assert verdict(comparison, "Mean ESM σ") == "Mean ESM σ: no pair of runs measured it on both sides."
    assert verdict(comparison, "Best top-1") == (
        "Best top-1 (%): too few seeds for a claim, +1.00 points (1 seed)."
    )


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    for side in "ab":
        write(tmp_path / side, [60.0, 61.0])
    for folder in (tmp_path / "b").iterdir():
        if "-s1-" in folder.name:
            (folder / "status.json").write_text('{"state": "asleep"}')
    notes = coverage_notes(compare(tmp_path / "a", tmp_path / "b"))
    assert notes[1] == "1 run only in A, of cells that both have."
    assert notes[-1].startswith("Not read in B: ")
    assert notes[-1].endswith("status.json has the unknown state 'asleep'.")


def test_different_hardware_is_said(tmp_path: Path) -> None:
    write(tmp_path / "a", [60.0, 61.0])
    write(
        tmp_path / "b",
        [60.0, 61.0],
        details={"provenance": {**PROVENANCE, "device": "NVIDIA L4", "world_size": 2}},
    )
    assert coverage_notes(compare(tmp_path / "a", tmp_path / "b"))[-1] == (
        "Images/s, memory and epoch time compare different hardware in 2 of 2 pairs: "
        "NVIDIA H200 × 1 in A, NVIDIA L4 × 2 in B."
    )


def test_many_cells_are_cut_short_and_the_csv_has_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_text, "MAX_CELLS", 1)
    for side in "ab":
        for kind in ("bn", "xbn"):
            write(tmp_path / side, [60.0], model={"arch": "small_resnet20", "norm": {"kind": kind}})
    comparison = compare(tmp_path / "a", tmp_path / "b")
    display = two_sides_display(comparison_table(comparison))
    assert display is not None
    assert {row[0] for row in display.texts} == {"BN"}
    assert display.notes[-1] == "1 more cell not shown; with --out, compare.csv has all."
    _, csv = write_comparison(comparison, tmp_path / "out")
    assert set(pd.read_csv(csv).norm) == {"BN", "XBN-P2-GN8"}


def test_markdown_ends_with_the_verdicts(tmp_path: Path) -> None:
    write(tmp_path / "a", [60.0, 61.0, 62.0])
    write(tmp_path / "b", [64.0, 65.5, 66.0])
    markdown, csv = write_comparison(compare(tmp_path / "a", tmp_path / "b"), tmp_path / "out")
    text = markdown.read_text()
    assert "| BN | 4 | Final top-1 (%) | 3 | 61.00 | 65.17 | +4.17 ± 0.72 |" in text
    assert text[text.index("## Verdict") :].count("\n- ") == 7
    found = pd.read_csv(csv).set_index("metric")
    assert found.estimate["top1_percent"] == pytest.approx(25 / 6)
    assert not math.isnan(found.low["top1_percent"])


def test_nothing_in_common_is_one_sentence(tmp_path: Path) -> None:
    write(tmp_path / "a", [60.0])
    write(tmp_path / "b", [60.0], model={"arch": "small_resnet11", "norm": {"kind": "bn"}})
    with pytest.raises(UserError, match="have no run in common: no two are alike in model, data, norm"):
        compare(tmp_path / "a", tmp_path / "b")


def test_a_folder_is_not_compared_with_itself(tmp_path: Path) -> None:
    write(tmp_path / "a", [60.0])
    with pytest.raises(UserError, match="would be compared with itself"):
        compare(tmp_path / "a", tmp_path / "a" / ".." / "a")


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    for side in "ab":
        write(tmp_path / side, [60.0])
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="the comparison cannot be written"):
        write_comparison(compare(tmp_path / "a", tmp_path / "b"), tmp_path / "file")


def shiftbench(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "jobs.cli", *map(str, arguments)]
    env = {**os.environ, "COLUMNS": "80"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=250)


def test_the_command_prints_a_table_and_ends_with_verdicts(tmp_path: Path) -> None:
    write(tmp_path / "a", [60.0, 61.0, 62.0])
    write(tmp_path / "b", [64.0, 65.5, 66.0])
    done = shiftbench("compare", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "Final top-1 (%): B is better" in done.stdout
    assert (tmp_path / "out" / "compare.csv").exists()
    missing = shiftbench("compare", tmp_path / "a", tmp_path / "nowhere")
    assert missing.returncode == 2
    assert "nowhere: no such folder" in missing.stderr
