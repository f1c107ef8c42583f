"""The sentences claim what was computed, and no more."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reports.collect import collect
from reports.frames import build_frames
from reports.verdicts import verdicts
from tests.reports.records import expand_runs, write_run

LAYERS = {"BN": ["stem", "a"], "XBN-P2-GN8": ["a"], "GN8": []}


def verdict_of(
    root: Path, tops: Mapping[str, list[float]], sigma: Mapping[str, list[float]], **sweep: Any
) -> list[str]:
    batch = {"global_batch_size": 64, "norm_batch_size": [4, 64]}
    for run in expand_runs(**{"batch": batch, **sweep}):
        label = run.model.norm.label
        if label in tops and run.seed < len(tops[label]):
            small = run.batch.norm == 4
            value = sigma.get(label, [1.0] * 9)[run.seed] if small else 100.0
            top1 = tops[label][run.seed] if small else 1.0
            esm = [7.0] * (len(LAYERS[label]) - 1) + [value] * bool(LAYERS[label])
            write_run(root, run, top1_percent=[top1], layers=LAYERS[label], esm_sigma=esm)
    return sentences_of(root)


def sentences_of(root: Path) -> list[str]:
    found = verdicts(build_frames(collect([root])))
    return [
        f"{verdict.where}: {sentence}".replace("\u00a0", " ")
        for verdict in found
        for sentence in verdict.sentences
    ]


def test_three_seeds_allow_a_claim_at_the_smallest_norm_batch(tmp_path: Path) -> None:
    (sentence,) = verdict_of(
        tmp_path,
        {"BN": [60.0, 61.0, 62.0], "XBN-P2-GN8": [64.0, 65.5, 66.0], "GN8": [1.0, 1.0, 1.0]},
        {"BN": [2.0, 2.2, 1.8], "XBN-P2-GN8": [1.0, 1.1, 0.9]},
    )
    assert sentence.startswith("small_resnet20 on fashion-mnist-7k, at norm batch 4: ")
    assert (
        "is below BN's, at 0.500 × BN's (95 % interval 0.500 to 0.500, lower in 3 of 3 paired seeds)"
        in sentence
    )
    # Differences 4, 4.5, 4: mean 4.1667, sd 0.28868, half = 4.302653 × 0.28868 / √3 = 0.7171.
    assert "is higher than BN's, by +4.17 points (95 % interval +3.45 to +4.88, 3 paired seeds)" in sentence
    assert "no claim" not in sentence


def test_an_interval_over_zero_is_inconclusive(tmp_path: Path) -> None:
    (sentence,) = verdict_of(
        tmp_path,
        {"BN": [60.0, 61.0, 62.0], "XBN-P2-GN8": [61.0, 60.0, 63.0]},
        {"BN": [1.0, 2.0, 1.0], "XBN-P2-GN8": [2.0, 1.0, 1.0]},
    )
    assert "mean ESM σ over the common layers is not told apart from BN's, at 1.00 × BN's" in sentence
    assert "lower in 1 of 3 paired seeds" in sentence
    assert "its final top-1 is not told apart from BN's, at +0.33 points" in sentence


def test_two_seeds_make_no_claim(tmp_path: Path) -> None:
    (sentence,) = verdict_of(
        tmp_path,
        {"BN": [60.0, 60.0], "XBN-P2-GN8": [70.0, 70.0]},
        {"BN": [2.0, 2.0], "XBN-P2-GN8": [1.0, 1.0]},
    )
    assert "2 paired seeds, so no claim of significance" in sentence
    assert not any(word in sentence for word in ("below", "higher"))


def test_one_seed_says_that_it_has_no_interval(tmp_path: Path) -> None:
    (sentence,) = verdict_of(
        tmp_path, {"BN": [60.0], "XBN-P2-GN8": [70.0]}, {"BN": [2.0], "XBN-P2-GN8": [1.0]}
    )
    assert "differs from BN's by +10.00 points (no interval from one seed, 1 paired seed)" in sentence


def test_a_missing_variant_is_named(tmp_path: Path) -> None:
    assert verdict_of(tmp_path, {"BN": [60.0], "GN8": [70.0]}, {}) == [
        "small_resnet20 on fashion-mnist-7k, at norm batch 4: "
        "Only BN was run, so XBN and BN cannot be compared."
    ]


def test_runs_that_did_not_complete_are_named(tmp_path: Path) -> None:
    runs = [r for r in expand_runs(batch={"global_batch_size": 4}) if r.model.norm.label != "GN8"]
    for run in runs:
        write_run(
            tmp_path, run, state="diverged" if run.seed == 1 and run.model.norm.label == "BN" else "completed"
        )
    (sentence,) = sentences_of(tmp_path)
    assert sentence.endswith("(left out, not completed: 1 of 3 BN runs).")
    assert "2 paired seeds" in sentence


def test_nothing_completed_is_said_plainly(tmp_path: Path) -> None:
    for run in expand_runs(batch={"global_batch_size": 4}, seeds=[0]):
        write_run(tmp_path, run, state="failed", final=False)
    (sentence,) = sentences_of(tmp_path)
    assert sentence.endswith(
        "No seed has results of both XBN-P2-GN8 and BN "
        "(left out, not completed: 1 of 1 XBN-P2-GN8 run, 1 of 1 BN run)."
    )


def test_norms_without_bn_alone_have_nothing_to_compare(tmp_path: Path) -> None:
    for run in expand_runs(model={"arch": "small_resnet20", "norm": {"kind": "gn"}}, seeds=[0]):
        write_run(tmp_path, run)
    assert sentences_of(tmp_path) == []
