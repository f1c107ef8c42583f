"""The first screen: the ranking at each norm batch, the sentence that answers, and the forest plot."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats as scipy_stats

from reports.findings.answer import Answer, answer
from reports.findings.baseline import Baseline, against_baseline
from reports.findings.ranking import ranking
from reports.frames import Frames
from reports.numbers import all_have, natural_key
from reports.stats import Estimate, seeds_to_tell
from reports.tables.forest import Forest, forest, ranking_display
from tests.helpers.paired_cells import Cells, frames_of

LABELS = ["BN", "XBN-P2-GN8", "GN8"]
# GN beats XBN at 4, and both beat BN there; at 64 none differs significantly from the best.
TOP1: Cells = {
    ("BN", 4): [60.0, 61.0, 62.0, 63.0],
    ("XBN-P2-GN8", 4): [65.0, 66.1, 66.9, 68.0],
    ("GN8", 64): [70.0, 71.1, 72.1, 72.8],
    ("BN", 64): [70.0, 70.6, 72.4, 72.8],
    ("XBN-P2-GN8", 64): [70.2, 70.9, 72.0, 73.1],
}
SEEDS = [0, 1, 2, 3]


def found(
    root: Path, top1: Cells, baseline: str | None = "BN", **sweep: Any
) -> tuple[Frames, pd.DataFrame, Any]:
    frames = frames_of(root, top1, {cell: [1.0] * 9 for cell in top1}, **{"seeds": SEEDS, **sweep})
    comparison = against_baseline(frames, baseline) if baseline else None
    return frames, ranking(frames, LABELS, comparison, baseline), comparison


def answered(root: Path, top1: Cells, **sweep: Any) -> Answer:
    frames, ranked, comparison = found(root, top1, **sweep)
    return answer(frames, ranked, comparison, Baseline("BN"))


def test_a_norm_without_a_norm_batch_is_ranked_at_each_and_against_xbn_too(tmp_path: Path) -> None:
    frames, ranked, comparison = found(tmp_path, TOP1)
    at_4, at_64 = (ranked[ranked.norm_batch_size == size] for size in (4, 64))
    assert at_4.norm.tolist() == ["GN8", "XBN-P2-GN8", "BN"]
    assert at_4.is_best.tolist() == [True, False, False]
    assert set(at_64.norm) == set(LABELS)
    assert at_64.is_best.all()
    # GN less XBN, paired: one of the two pairs without BN, so that Holm doubles the smaller p.
    gn, xbn = TOP1["GN8", 64], TOP1["XBN-P2-GN8", 4]
    p = scipy_stats.ttest_rel(gn, xbn).pvalue
    row = at_4[at_4.norm == "XBN-P2-GN8"].iloc[0]
    assert row.p_holm == pytest.approx(2 * p)
    assert row.behind_mean == pytest.approx(sum(gn) / 4 - sum(xbn) / 4)
    # And BN's p is that of the comparison with BN, over its four rows.
    bn = at_4[at_4.norm == "BN"].iloc[0]
    compared = comparison[(comparison.norm == "GN8") & (comparison.norm_batch_size == 4)].iloc[0]
    assert bn.p_holm == compared.top1_p_holm
    table = ranking_display(ranked)
    assert table is not None
    assert [row[:2] + row[3:4] for row in table.texts] == [
        ["4", "GN8", "XBN-P2-GN8, BN"],
        ["64", ", ".join(at_64.norm), "—"],
    ]
    drawn = forest(frames, ranked, comparison, "BN")
    assert drawn is not None
    assert [(r.norm_batch, r.norm, r.verdict, r.is_best) for r in drawn.rows if r.norm_batch == "4"] == [
        ("4", "GN8", "better", True),
        ("4", "XBN-P2-GN8", "better", False),
        ("4", "BN", "baseline", False),
    ]


def test_too_few_seeds_make_no_norm_one_of_the_best(tmp_path: Path) -> None:
    top1 = TOP1 | {("XBN-P2-GN8", 4): [75.0], ("BN", 64): [80.0, 81.0]}
    frames, ranked, comparison = found(tmp_path, top1)
    drawn = forest(frames, ranked, comparison, "BN")
    assert drawn is not None
    assert [(row.norm_batch, row.norm, row.is_best) for row in drawn.rows] == [
        ("4", "XBN-P2-GN8", False),  # the highest mean, of one seed
        ("4", "GN8", True),
        ("4", "BN", False),
        ("64", "BN", False),
        ("64", "XBN-P2-GN8", True),
        ("64", "GN8", True),
    ]
    # At 4, GN8 is the best; BN is behind it by 10, 10.1, 10.1 and 9.8.
    assert ranked[ranked.norm_batch_size == 4].behind_mean.tolist()[2] == pytest.approx(10.0)
    table = ranking_display(ranked)
    assert table is not None
    assert [row[:2] + row[3:5] for row in table.texts] == [
        ["4", "GN8", "BN", "XBN-P2-GN8"],
        ["64", "XBN-P2-GN8, GN8", "—", "BN"],
    ]
    two = {cell: values[:2] for cell, values in TOP1.items()}
    assert not any(row.is_best for row in plot(tmp_path / "two", two, seeds=[0, 1]).rows)


def test_without_a_baseline_norms_are_ranked_all_the_same(tmp_path: Path) -> None:
    top1 = {("GN8", 64): TOP1["GN8", 64], ("XBN-P2-GN8", 4): TOP1["XBN-P2-GN8", 4]}
    frames, ranked, comparison = found(tmp_path, top1, None)
    assert ranked[["norm", "is_best"]].to_numpy().tolist() == [["GN8", True], ["XBN-P2-GN8", False]]
    told = answer(frames, ranked, comparison, Baseline(None, "BN was not run, so nothing is compared."))
    assert told.headline == "BN was not run, so nothing is compared."
    assert forest(frames, ranked, comparison, None) is None


def test_the_headline_says_what_beats_the_baseline_and_what_may_be_as_good(tmp_path: Path) -> None:
    told = answered(tmp_path, TOP1)
    # Differences 10, 10.1, 10.1, 9.8: sd √0.02, half 3.182446 × 0.14142 / 2 = 0.22503.
    assert (
        told.headline
        == "At norm batch 4, GN8 beats BN by 10.00 ± 0.23 points of top-1 (4 paired seeds, p < 0.001)."
    )
    assert told.norm_batch == "4"
    assert told.more == [
        "At other norm batches the best, as far as differences are significant: any of the 3 norms at 64."
    ]
    near = TOP1 | {("XBN-P2-GN8", 4): [70.1, 70.8, 72.3, 72.6]}
    assert answered(tmp_path / "near", near).headline.endswith("; XBN-P2-GN8 may be as good.")


def test_norms_without_a_norm_batch_are_compared_with_such_a_baseline_at_each(tmp_path: Path) -> None:
    top1: Cells = {
        ("GN8", 64): [70.0, 71.0, 72.0, 73.0],
        ("LN", 64): [60.0, 61.1, 61.9, 63.0],
        ("BN", 4): [65.0, 66.1, 66.9, 68.0],
    }
    norms = [{"kind": "bn"}, {"kind": "gn", "num_groups": 8}, {"kind": "ln"}]
    frames = frames_of(tmp_path, top1, seeds=SEEDS, model={"arch": "small_resnet20", "norm": norms})
    comparison = against_baseline(frames, "GN8")
    ranked = ranking(frames, ["GN8", "LN", "BN"], comparison, "GN8")
    assert ranked[["norm", "is_best"]].to_numpy().tolist() == [["GN8", True], ["BN", False], ["LN", False]]
    drawn = forest(frames, ranked, comparison, "GN8")
    assert drawn is not None
    assert [(row.norm, row.verdict) for row in drawn.rows] == [
        ("GN8", "baseline"),
        ("BN", "worse"),
        ("LN", "worse"),
    ]


def test_a_norm_that_is_worse_needs_no_more_seeds_though_a_third_one_is_open(tmp_path: Path) -> None:
    top1: Cells = {
        ("BN", 4): [80.0, 81.0, 82.0, 83.0],
        ("XBN-P2-GN8", 4): [79.0, 80.1, 80.9, 82.0],
        ("GN8", 64): [60.0, 95.0, 70.0, 80.0],
    }
    told = answered(tmp_path, top1)
    assert "XBN-P2-GN8 differs from it by −1.00 ± " in told.headline
    assert "more seed" not in told.headline


def test_a_baseline_that_is_best_is_said_to_be(tmp_path: Path) -> None:
    top1 = {("BN", 4): [70.0, 71.0, 72.0, 73.0], ("XBN-P2-GN8", 4): [65.0, 66.1, 66.9, 68.0]}
    told = answered(tmp_path, top1)
    # 5, 4.9, 5.1, 5: sd 0.0816, half 0.130; t = 122.
    assert told.headline == (
        "At norm batch 4, BN is best: it beats every other norm, and XBN-P2-GN8, the next, by 5.00 ± 0.13 "
        "points of top-1 (4 paired seeds, p < 0.001)."
    )
    assert told.more[0].startswith("The mean estimation shift of XBN-P2-GN8")


def test_norms_with_too_few_seeds_are_named_and_are_none_of_the_best(tmp_path: Path) -> None:
    # XBN has the highest mean at 4, of one seed; at 64, BN and GN8 differ by no more than chance.
    top1 = TOP1 | {("XBN-P2-GN8", 4): [75.0], ("XBN-P2-GN8", 64): [80.0]}
    frames, ranked, comparison = found(tmp_path / "beats", top1)
    at_4 = ranked[ranked.norm_batch_size == 4]
    assert at_4[["norm", "rank", "is_best", "is_open"]].to_numpy().tolist() == [
        ["XBN-P2-GN8", 1, False, True],
        ["GN8", 2, True, False],
        ["BN", 3, False, False],
    ]
    told = answer(frames, ranked, comparison, Baseline("BN"))
    assert told.headline.startswith("At norm batch 4, GN8 beats BN by 10.00 ± 0.23 points of top-1 (4 paired")
    assert told.headline.endswith("); XBN-P2-GN8 has too few seeds to tell.")
    # The set of the stars: 287.0 / 4 of GN8 is above 285.8 / 4 of BN.
    assert told.more == [
        "At other norm batches the best, as far as differences are significant: GN8 or BN at 64 (XBN-P2-GN8 "
        "has too few seeds to tell)."
    ]
    best = {("BN", 4): [70.0, 71.0, 72.0, 73.0], ("GN8", 64): [65.0, 66.1, 66.9, 68.0]}
    won = answered(tmp_path / "best", best | {("XBN-P2-GN8", 4): [99.0]})
    # 5, 4.9, 5.1, 5, as below.
    assert won.headline == (
        "At norm batch 4, BN is best: it beats every other norm with enough seeds, and GN8, the next, by "
        "5.00 ± 0.13 points of top-1 (4 paired seeds, p < 0.001); XBN-P2-GN8 has too few seeds to tell."
    )
    few = answered(tmp_path / "few", {("BN", 4): best["BN", 4], ("XBN-P2-GN8", 4): [60.0]})
    assert few.headline.endswith("but 1 paired seed is too few to compare norms.")
    near = {("BN", 4): TOP1["BN", 64], ("GN8", 64): TOP1["GN8", 64], ("XBN-P2-GN8", 4): [99.0]}
    near |= {("BN", 64): [60.0], ("XBN-P2-GN8", 64): [61.0]}
    told = answered(tmp_path / "near", near)
    assert told.headline.startswith(
        "At norm batch 4, no norm is shown to beat BN: GN8 differs from it by +0.05"
    )
    assert told.headline.endswith("; XBN-P2-GN8 has too few seeds to tell.")
    assert "GN8 at 64 (XBN-P2-GN8 and BN have too few seeds to tell)." in told.more[-1]


def test_what_is_not_significant_is_said_with_the_seeds_that_would_show_it(tmp_path: Path) -> None:
    top1 = {("BN", 4): [60.0, 61.0, 62.0, 63.0], ("XBN-P2-GN8", 4): [62.0, 61.0, 63.0, 66.0]}
    told = answered(tmp_path, top1)
    # 2, 0, 1, 3: mean 1.5, sd 1.291, half 2.054; t = 2.324, p = 0.103.
    assert told.headline == (
        "At norm batch 4, no norm is shown to beat BN: XBN-P2-GN8 differs from it by +1.5 ± 2.1 points of "
        "top-1 (4 paired seeds, p = 0.10). About 4 more seeds would show a difference "
        "with a probability of 80 %, if it and the spread stay."
    )
    assert told.command == ""


def test_the_seeds_that_would_tell_are_those_of_the_noncentral_t() -> None:
    # An effect of 1 at 5 %: ten pairs have a power of 80.3 %, nine one of 74.9 % (tables of Cohen, 1988).
    half = 1.0 * scipy_stats.t.ppf(0.975, 3) / 2  # of four values with sd 1
    assert seeds_to_tell(Estimate(1.0, 1.0 - half, 1.0 + half, 4), 1) == 10
    assert seeds_to_tell(Estimate(-1.0, -1.0 - half, -1.0 + half, 4), 1) == 10
    assert (seeds_to_tell(Estimate(1.0, 1.0 - half, 1.0 + half, 4), 8) or 0) > 10
    assert seeds_to_tell(Estimate(0.001, 0.001 - half, 0.001 + half, 4), 1) is None
    assert seeds_to_tell(Estimate(1.0, 0.5, 1.5, 2), 1) is None


def test_two_seeds_are_said_once_with_the_command_that_adds_some(tmp_path: Path) -> None:
    top1 = {("BN", 4): [60.0, 61.0], ("XBN-P2-GN8", 4): [62.0, 64.0]}
    told = answered(tmp_path / "runs", top1, seeds=[0, 1])
    assert told.headline == (
        "At norm batch 4, XBN-P2-GN8 differs from BN by +2.00 and +3.00 points of top-1, but 2 paired seeds "
        "are too few to compare norms."
    )
    folder = tmp_path / "runs"
    assert told.command == f"shiftbench run synthetic-sweep.yaml 'seeds=[0,1,2,3,4]' --output-dir {folder}"
    assert not any("seed" in sentence for sentence in told.more)


def test_runs_that_did_not_complete_are_in_sight_and_nothing_yet_is_no_error(tmp_path: Path) -> None:
    lost = {("BN", 4): [60.0, -1.0], ("XBN-P2-GN8", 4): [-1.0, 61.0]}
    told = answered(tmp_path / "some", lost, seeds=[0, 1])
    assert told.headline == "At norm batch 4, no other norm has completed a seed that BN has completed too."
    assert told.more == [
        "2 runs did not complete and are left out, though they may be the worst: 2 diverged."
    ]
    none = answered(tmp_path / "none", {("BN", 4): [-1.0], ("XBN-P2-GN8", 4): [-1.0]}, seeds=[0])
    assert none.headline == "No run has completed yet."


def plot(root: Path, top1: Cells, **sweep: Any) -> Forest:
    frames, ranked, comparison = found(root, top1, **sweep)
    drawn = forest(frames, ranked, comparison, "BN")
    assert drawn is not None
    return drawn


def test_the_forest_is_drawn_to_scale(tmp_path: Path) -> None:
    top1 = {("BN", 4): [60.0, 61.0, 62.0], ("XBN-P2-GN8", 4): [63.0, 65.0, 67.0]}
    drawn = plot(tmp_path, top1, seeds=[0, 1, 2])
    # 3, 4, 5: half 4.302653 / √3 = 2.484; from 0 to 6.484 with 4 % on both sides.
    width = 6.484 * 1.08
    bar = next(row.bar for row in drawn.rows if row.norm == "XBN-P2-GN8")
    assert bar is not None
    expected = [100 * (0.04 * 6.484 + value) / width for value in (4 - 2.484, 4.0, 4 + 2.484)]
    assert [bar.low, bar.middle, bar.high] == pytest.approx(expected, abs=0.02)
    assert [text for _, text in drawn.ticks] == ["0", "+2", "+4", "+6"]
    assert drawn.ticks[0][0] == pytest.approx(100 * 0.04 / 1.08, abs=0.01)


@pytest.mark.parametrize(
    ("xbn", "chip"),
    [
        ([60.1, 61.0, 61.9, 63.0], "no difference"),  # within 0.13 of zero
        ([60.4, 61.0, 61.6, 63.0], "inconclusive"),
        ([60.0, 61.0], "too few seeds"),
    ],
)
def test_each_verdict_has_its_chip(tmp_path: Path, xbn: list[float], chip: str) -> None:
    drawn = plot(tmp_path, {("BN", 4): [60.0, 61.0, 62.0, 63.0], ("XBN-P2-GN8", 4): xbn})
    (row,) = [row for row in drawn.rows if row.norm == "XBN-P2-GN8"]
    assert (row.verdict, row.chip[1]) == (chip, chip)


def test_names_that_all_have_something() -> None:
    assert all_have(["BN", "XBN"]) == "BN and XBN both have"
    assert all_have(["BN", "XBN", "GN8"]) == "BN, XBN and GN8 all have"
    assert all_have(["BN", "XBN", "GN8"], most=2) == "BN, XBN and 1 more all have"


def test_names_sort_as_people_count() -> None:
    assert sorted(["resnet101", "resnet50"], key=natural_key) == ["resnet50", "resnet101"]
    assert sorted(["GN32", "gn4", "GN8"], key=natural_key) == ["gn4", "GN8", "GN32"]
