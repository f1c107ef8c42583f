"""The sentences claim what was computed, and no more."""

from pathlib import Path
from typing import Any

import pytest

from reports.findings import verdicts as module
from reports.findings.baseline import against_baseline
from reports.findings.verdicts import Verdict, verdicts
from reports.frames import Frames
from tests.helpers.paired_cells import ESM, TOP1, Cells, frames_of, p_of_three
from tests.helpers.records import expand_runs, write_run

WHERE = "small_resnet20 on fashion-mnist-7k"
ONE_BATCH = {"global_batch_size": 64, "norm_batch_size": 4}


def said(frames: Frames, baseline: str = "BN") -> list[Verdict]:
    return [
        Verdict(v.where, [sentence.replace("\u00a0", " ") for sentence in (*v.sentences, *v.caveats)])
        for v in verdicts(frames, against_baseline(frames, baseline), baseline)
    ]


def sentences(root: Path, top1: Cells, esm: Cells | None = None, **sweep: Any) -> list[str]:
    (verdict,) = said(frames_of(root, top1, esm, **sweep))
    assert verdict.where == WHERE
    return verdict.sentences


def test_the_outcomes_of_all_norm_batches_in_a_sentence_each(tmp_path: Path) -> None:
    """The numbers are those of test_standing; the p of all three is 4 × (1 − 31 / √963)."""
    gn, xbn = sentences(tmp_path, TOP1, ESM)
    assert gn == (
        "GN8 beats BN by 5.17 ± 0.72 points of top-1 at norm batch 4 (3 paired seeds, p = 0.0042); "
        "loses to BN by 4.83 ± 0.72 points of top-1 at 64 (3 paired seeds, p = 0.0042)."
    )
    accuracy, shift = xbn.split(". ", 1)
    assert accuracy == (
        "XBN-P2-GN8 beats BN by 4.17 ± 0.72 points of top-1 at norm batch 4 (3 paired seeds, p = 0.0042); "
        "inconclusive at 64"
    )
    # The geometric mean of 2, 2.2 and 1.8 is 1.993, the sd of their logs 0.1004.
    assert shift.startswith(
        "Its mean scaled ESM σ over the layers that both have is lower: 0.502 × BN's at norm batch 4 "
        "(95 % interval 0.391 to 0.644, 3 paired seeds, p = "
    )
    assert shift.endswith("); inconclusive at 64.")


def test_norm_batches_with_one_outcome_share_a_clause(tmp_path: Path) -> None:
    top1 = {
        ("BN", 4): [60.0, 61.0, 62.0],
        ("BN", 64): [60.0, 61.0, 62.0],
        ("XBN-P2-GN8", 4): [64.0, 65.0, 66.5],
        ("XBN-P2-GN8", 64): [63.0, 64.0, 65.5],
    }
    esm = {cell: [1.0] * 3 for cell in top1} | {("XBN-P2-GN8", 4): [0.5] * 3}
    (text,) = sentences(tmp_path, top1, esm)
    # t = 25 and 19: twice the p of 25 is 0.0032, more than the p of 19, 0.0028.
    assert "beats BN by 4.17 ± 0.72 points of top-1 at norm batch 4 (3 paired seeds, p = 0.0032), " in text
    assert "3.17 ± 0.72 at 64 (3 paired seeds, p = 0.0032)." in text
    # A ratio that is the same in each of three seeds may be chance: 2 × ¼ by Holm. And one of exactly 1.
    assert "is inconclusive: 0.500 × BN's at norm batch 4 (3 paired seeds, p = 0.50), 1.00 at 64 (" in text


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([0, 1, 2, 3], "9.01 to 6.01 points of top-1 at"),
        ([1, 0, 2, 3], "6.01 to 9.01 points of top-1, lowest to highest, at"),
    ],
)
def test_many_norm_batches_share_a_range(tmp_path: Path, steps: list[int], said: str) -> None:
    batch = {"global_batch_size": 64, "norm_batch_size": [2, 4, 8, 16]}
    top1: dict[tuple[str, int], list[float]] = {}
    for i, size in zip(steps, batch["norm_batch_size"], strict=True):  # type: ignore[arg-type]
        top1["BN", size] = [60.0, 61.0, 62.0]
        top1["XBN-P2-GN8", size] = [69.0 - i, 70.01 - i, 71.02 - i]
    (text,) = sentences(tmp_path, top1, batch=batch)
    assert f"beats BN by {said} norm batch 2, 4, 8 and 16 (3 paired seeds, p < 0.001)" in text


def test_an_interval_over_zero_is_inconclusive(tmp_path: Path) -> None:
    (text,) = sentences(
        tmp_path,
        {("BN", 4): [60.0, 61.0, 62.0], ("XBN-P2-GN8", 4): [61.0, 60.0, 63.0]},
        {("BN", 4): [1.0, 2.0, 1.0], ("XBN-P2-GN8", 4): [2.0, 1.0, 1.0]},
    )
    # 1, −1 and 1: sd 1.1547, half 4.302653 × 1.1547 / √3 = 2.868; t = ½, so p = 1 − ½ / √2.25 = 2/3.
    assert (
        "is not shown to differ from BN: +0.3 ± 2.9 points of top-1 at norm batch 4 "
        "(3 paired seeds, p = 0.67)." in text
    )
    assert "the layers that both have is inconclusive: 1.00 × BN's at norm batch 4 (95 % interval " in text


def test_two_seeds_show_both_differences_and_claim_nothing(tmp_path: Path) -> None:
    (text,) = sentences(
        tmp_path,
        {("BN", 4): [60.0, 60.0], ("XBN-P2-GN8", 4): [70.0, 71.0]},
        {("BN", 4): [2.0, 2.0], ("XBN-P2-GN8", 4): [1.0, 0.5]},
        seeds=[0, 1],
    )
    assert "differs from BN by +10.00 and +11.00 points of top-1 at norm batch 4 (2 paired seeds)." in text
    assert "is 0.250 and 0.500 × BN's at norm batch 4 (2 paired seeds)." in text
    assert not any(word in text for word in ("beats", "lower", "p ="))


def test_one_seed_says_that_it_has_no_interval(tmp_path: Path) -> None:
    (text,) = sentences(
        tmp_path,
        {("BN", 4): [60.0], ("XBN-P2-GN8", 4): [70.0]},
        {("BN", 4): [2.0], ("XBN-P2-GN8", 4): [1.0]},
        seeds=[0],
    )
    assert "differs from BN by +10.00 points of top-1 at norm batch 4 (1 paired seed)." in text
    assert "is 0.500 × BN's at norm batch 4 (1 paired seed)." in text


def test_the_baseline_alone_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    found = sentences(tmp_path, {("BN", 4): [60.0]}, seeds=[0])
    assert found == ["Only BN was run, so there is nothing to compare it with."]


def test_runs_that_did_not_complete_are_named(tmp_path: Path) -> None:
    top1 = {
        ("BN", 4): [60.0, -1.0, 62.0],
        ("XBN-P2-GN8", 4): [64.0, 65.0, 66.0],
        ("GN8", 64): [1.0, 1.0, -1.0],
    }
    found = sentences(tmp_path, top1)
    assert found[-1] == (
        "Left out, since they did not complete, and may be the worst: "
        "BN at norm batch 4: 1 diverged; GN8: 1 diverged."
    )
    assert any("2 paired seeds)" in text for text in found)


def test_what_failed_is_named_first_and_many_cells_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_LEFT_OUT", 2)
    states = {"BN": "cancelled", "XBN-P2-GN8": "failed", "GN8": "diverged"}
    for run in expand_runs(batch=ONE_BATCH, seeds=[0]):
        write_run(tmp_path, run, state=states[run.model.norm.label])
    (verdict,) = said(frames_of(tmp_path, {}))
    assert verdict.sentences[-1] == (
        "Left out, since they did not complete, and may be the worst: "
        "XBN-P2-GN8 at norm batch 4: 1 failed; GN8: 1 diverged; and 1 more cell."
    )


def test_nothing_completed_is_said_plainly(tmp_path: Path) -> None:
    (verdict,) = said(frames_of(tmp_path, {("BN", 4): [-1.0], ("XBN-P2-GN8", 4): [-1.0]}, seeds=[0]))
    assert verdict.sentences[0] == "XBN-P2-GN8 has no completed seed in common with BN at norm batch 4."
    assert "BN at norm batch 4: 1 diverged; XBN-P2-GN8 at norm batch 4: 1 diverged." in verdict.sentences[1]


def test_norms_without_bn_have_no_norm_batch(tmp_path: Path) -> None:
    norm = [{"kind": "gn", "num_groups": 8}, {"kind": "ln"}]
    for run in expand_runs(model={"arch": "small_resnet20", "norm": norm}, batch=ONE_BATCH, seeds=[0]):
        write_run(tmp_path, run, top1_percent=[60.0 + (run.model.norm.label == "LN")])
    (verdict,) = said(frames_of(tmp_path, {}), "GN8")
    assert verdict.sentences == ["LN differs from GN8 by +1.00 points of top-1 (1 paired seed)."]


def test_two_batches_per_gpu_are_apart(tmp_path: Path) -> None:
    batch = {"global_batch_size": 64, "batch_size_per_gpu": [16, 64], "norm_batch_size": 16}
    top1 = {("BN", 16): [60.0], ("XBN-P2-GN8", 16): [61.0]}
    found = said(frames_of(tmp_path, top1, batch=batch, seeds=[0]))
    assert [v.where for v in found] == [f"{WHERE}, batch per GPU 16", f"{WHERE}, batch per GPU 64"]
    assert [len(v.sentences) for v in found] == [1, 1]


def test_more_comparisons_than_sentences_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SENTENCES", 1)
    first, last = said(frames_of(tmp_path, TOP1, ESM))
    assert first.sentences[0].startswith("GN8 beats BN")
    assert last.sentences == ["1 more comparison is in the table “Accuracy against BN” and in standing.csv."]


def test_of_several_inconclusive_ones_the_smallest_p_is_told(tmp_path: Path) -> None:
    sizes = [4, 8, 16, 32]
    batch = {"global_batch_size": 32, "norm_batch_size": sizes}
    # Differences of mean 1 and standard deviation 1 (t = √3) once, and of mean 0 elsewhere.
    top1 = {("BN", size): [60.0, 60.0, 60.0] for size in sizes}
    top1 |= {("XBN-P2-GN8", size): [59.0, 60.0, 61.0] for size in sizes}
    top1["XBN-P2-GN8", 4] = [60.0, 61.0, 62.0]
    (verdict,) = said(frames_of(tmp_path, top1, batch=batch))
    smallest = min(1.0, 4 * p_of_three(3**0.5))  # Holm: of four
    assert f"(3 paired seeds, p ≥ {smallest:.2f})" in verdict.sentences[0]
