"""Which runs a comparison of two sets covers, what it says of the others, and what it writes."""

import math
from pathlib import Path

import pandas as pd
import pytest

from reports.findings.compare_verdicts import coverage_notes
from reports.findings.two_sides import compare, comparison_table
from reports.tables import side_by_side
from reports.tables.side_by_side import two_sides_display
from reports.write.compare_text import write_comparison
from suite.errors import UserError
from tests.helpers.command_line import shiftbench
from tests.helpers.records import PROVENANCE, expand_runs, write_run
from tests.helpers.two_sides import BATCH, XBN, rows_of, verdict, write


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
    # A quarter of 1: the makers' scaled ESM.
    assert rows_of(comparison).a["BN", "esm_sigma_scaled"] == 0.25
    assert "equal to the last bit in the one pair" in verdict(comparison, "Mean scaled ESM σ")


def test_norms_without_bn_have_no_esm_to_compare(tmp_path: Path) -> None:
    gn = {"arch": "small_resnet20", "norm": {"kind": "gn", "num_groups": 8}}
    for side, top1 in (("a", 60.0), ("b", 61.0)):
        (run,) = expand_runs(model=gn, batch=BATCH, seeds=[0])
        write_run(tmp_path / side, run, top1_percent=[top1])
    comparison = compare(tmp_path / "a", tmp_path / "b")
    assert verdict(comparison, "Mean scaled ESM σ") == (
        "Mean scaled ESM σ: no pair of runs measured it on both sides."
    )
    # It is in the table alone: the best of many epochs decides nothing.
    with pytest.raises(ValueError, match="not enough values"):
        verdict(comparison, "Best top-1")


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    for side in "ab":
        write(tmp_path / side, [60.0, 61.0])
    for folder in (tmp_path / "b").iterdir():
        if "-s1-" in folder.name:
            (folder / "status.json").write_text('{"state": "asleep"}')
    notes = coverage_notes(compare(tmp_path / "a", tmp_path / "b"))
    assert notes[1] == "1 run only in A, of cells that both have."
    assert notes[-1].startswith("Not read in B: ")
    assert "status.json" in notes[-1]
    assert "'asleep'" in notes[-1]


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
    monkeypatch.setattr(side_by_side, "MAX_CELLS", 1)
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
    assert text[text.index("## Verdict") :].count("\n- ") == 6
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


def test_the_command_prints_a_table_and_ends_with_verdicts(tmp_path: Path) -> None:
    write(tmp_path / "a", [60.0, 61.0, 62.0])
    write(tmp_path / "b", [64.0, 65.5, 66.0])
    done = shiftbench("compare", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert "Final top-1 (%): B is better" in done.stdout
    assert (tmp_path / "out" / "compare.csv").exists()
    missing = shiftbench("compare", tmp_path / "a", tmp_path / "nowhere")
    assert missing.returncode == 2
    assert "nowhere: no such folder" in missing.stderr
