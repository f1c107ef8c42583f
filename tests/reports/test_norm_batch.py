"""Answers along the norm batch, against numbers worked out by hand."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from reports.collect import collect
from reports.findings.baseline import against_baseline
from reports.findings.norm_batch import NormBatchAnswer, norm_batch_answers
from reports.frames import build_frames
from reports.stats import slope
from reports.write.study_answers import cost_sentence, print_study, study_answers, write_study
from tests.helpers.records import PROVENANCE, expand_runs, write_run

Cells = dict[tuple[str, int], list[float]]


def write(root: Path, top1: Cells, esm: Cells | None = None) -> None:
    for run in expand_runs():
        cell = (run.model.norm.label, run.batch.norm)
        if run.seed < len(top1.get(cell, [])):
            values = (esm or {}).get(cell)
            shift = None if values is None else [values[run.seed]]
            write_run(root, run, top1_percent=[top1[cell][run.seed]], layers=["a"], esm_sigma=shift)


def answers_below(root: Path, margin: float = 1.0) -> list[NormBatchAnswer]:
    frames = build_frames(collect([root]))
    return norm_batch_answers(frames, against_baseline(frames, "BN"), margin)


def answers(root: Path, margin: float = 1.0) -> dict[tuple[str, str], NormBatchAnswer]:
    found = answers_below(root, margin)
    return {(answer.kind, answer.variant): answer for answer in found}


def test_slope_by_hand() -> None:
    # Through (1, 1), (2, 3), (3, 2): Σ(x − 2)(y − 2) = 1, Σ(x − 2)² = 2.
    assert slope([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)


def test_the_shift_grows_by_a_factor_for_each_halving(tmp_path: Path) -> None:
    top1 = {("BN", size): [50.0, 50.0, 50.0] for size in (4, 16, 64)}
    # A quarter of the norm batch: × 2, × 2 and × 4.5 in turn, so × √2, √2 and √4.5 for each halving.
    esm = {("BN", 64): [1.0, 2.0, 1.0], ("BN", 16): [2.0, 4.0, 4.5], ("BN", 4): [4.0, 8.0, 20.25]}
    write(tmp_path, top1, esm)
    answer = answers(tmp_path)["esm_per_halving", "BN"]
    assert answer.estimate is not None
    # Logs 0.34657, 0.34657, 0.75204: mean 0.48173, sd 0.23410, half 4.302653 × 0.23410 / √3 = 0.58154.
    found = (answer.estimate.mean, answer.estimate.low, answer.estimate.high)
    assert found == pytest.approx((1.61887, 0.90501, 2.89581), rel=1e-4)
    assert "is not shown to change" in answer.sentence
    esm[("BN", 16)][2], esm[("BN", 4)][2] = 2.01, 4.04
    other = tmp_path / "other"
    write(other, top1, esm)
    sentence = answers(other)["esm_per_halving", "BN"].sentence.replace("\u00a0", " ")
    assert sentence.startswith(
        "BN's mean scaled ESM σ over its BN layers rises as the norm batch shrinks: × 1.42 for each halving "
        "from 64 "
    )


def write_shifts(root: Path, esm: dict[tuple[str, int], list[dict[str, float]]]) -> None:
    """ESM σ by layer: of each norm and norm batch, one for each seed."""
    norms = [{"kind": "bn"}, *({"kind": "xbn", "position": position} for position in ("p1", "p2", "p3"))]
    batch = {"global_batch_size": 64, "norm_batch_size": [4, 16]}
    for run in expand_runs(batch=batch, model={"arch": "small_resnet20", "norm": norms}):
        of_seeds = esm.get((run.model.norm.label[:6].rstrip("-"), run.batch.norm), [])
        if run.seed < len(of_seeds):
            layers = of_seeds[run.seed]
            write_run(root, run, top1_percent=[50.0], layers=list(layers), esm_sigma=list(layers.values()))


def test_whose_shift_is_smaller_over_all_norm_batches(tmp_path: Path) -> None:
    # BN's other layers are in no comparison, and which are is not P1's business where P2 is compared.
    bn = {4: [4.0, 8.0, 4.0], 16: [2.0, 2.0, 4.0]}
    p2 = {4: [1.0, 2.0, 2.0], 16: [1.0, 1.0, 2.0]}
    esm = {("BN", size): [{"a": v, "b": 9.0, "c": 5.0} for v in values] for size, values in bn.items()}
    esm |= {("XBN-P2", size): [{"a": v} for v in values] for size, values in p2.items()}
    esm |= {("XBN-P1", size): [{"b": 9.9}, {"b": 9.0}, {"b": 8.1}] for size in bn}
    esm |= {("XBN-P3", 4): [{"c": v} for v in (9.0, 10.0, 11.0)]}
    write_shifts(tmp_path, esm)
    found = {name: one for (kind, name), one in answers(tmp_path).items() if kind == "esm_against_bn"}
    p1, ours, p3 = found.values()
    # A quarter and a half, so 1/√8 for the first two seeds, and 1/2 for the third: logs −1.03972 twice and
    # −0.69315, mean −0.92420, sd 0.20010, half 4.302653 × 0.20010 / √3 = 0.49706; t = −8.0, p = 0.0153.
    assert ours.estimate is not None
    bounds = (ours.estimate.mean, ours.estimate.low, ours.estimate.high)
    assert bounds == pytest.approx((0.39685, 0.24141, 0.65237), rel=1e-4)
    assert ours.sentence.replace("\u00a0", " ") == (
        f"{ours.variant}'s mean scaled ESM σ over the layers that both have is below BN's: × 0.397 in "
        "geometric mean over norm batches 4, 16 (95 % interval 0.241 to 0.652, 3 paired seeds)."
    )
    assert "is not shown to differ from BN's: × 0.997 in geometric mean" in p1.sentence
    assert "is above BN's: × 1.99 at norm batch 4 (" in p3.sentence
    # Logs −1.03972 twice and −0.55432: t = −5.4, p = 0.032. Of one variant a difference, but here of three.
    esm[("XBN-P2", 16)][2] = {"a": 2.64}
    esm[("XBN-P3", 4)] = [{"c": v} for v in (4.0, 5.0, 6.0)]
    other = tmp_path / "other"
    write_shifts(other, esm)
    ours = answers(other)["esm_against_bn", ours.variant]
    assert "is not shown to differ from BN's: × 0.416 in geometric mean" in ours.sentence
    assert ours.estimate is not None
    assert ours.estimate.excludes(1.0)


def test_of_two_seeds_no_shift_is_called_smaller(tmp_path: Path) -> None:
    esm = {("BN", 4): [{"a": 4.0}, {"a": 8.0}], ("BN", 16): [{"a": 2.0}, {"a": 2.0}]}
    esm |= {("XBN-P2", size): [{"a": 1.0}, {"a": 1.0}] for size in (4, 16)}
    write_shifts(tmp_path, esm)
    told = next(one for (kind, _), one in answers(tmp_path).items() if kind == "esm_against_bn").sentence
    # 1/√8 and 1/4.
    assert told.endswith(
        "is × 0.297 of BN's in geometric mean over norm batches 4, 16 (0.250 and 0.354 in the 2 paired "
        "seeds)."
    )


def test_the_largest_norm_batch_at_which_xbn_wins(tmp_path: Path) -> None:
    top1 = {
        ("BN", 4): [50.0, 51.0, 52.0],
        ("XBN-P2-GN64", 4): [60.0, 61.0, 62.5],
        ("BN", 16): [60.0, 61.0, 62.0],
        ("XBN-P2-GN64", 16): [62.0, 63.1, 64.0],
        ("BN", 64): [63.0, 64.0, 65.0],
        ("XBN-P2-GN64", 64): [62.0, 65.0, 65.0],
    }
    labels = {run.model.norm.label for run in expand_runs()}
    xbn = next(label for label in labels if label.startswith("XBN"))
    write(tmp_path, {(xbn if name.startswith("XBN") else name, size): v for (name, size), v in top1.items()})
    answer = answers(tmp_path)["xbn_beats_bn", xbn]
    assert answer.norm_batch_size == 16
    # Differences 2, 2.1, 2: mean 2.0333, sd 0.057735, half = 4.302653 × 0.057735 / √3 = 0.14342.
    assert answer.sentence.replace("\u00a0", " ") == (
        f"The largest norm batch at which {xbn} beats BN in top-1 is 16, by +2.03 points (95 % interval "
        "1.89 to 2.18, 3 paired seeds); at 64 it is not shown to."
    )


@pytest.mark.parametrize(("margin", "threshold"), [(1.0, 64), (5.0, 16), (20.0, None)])
def test_below_which_norm_batch_bn_loses(tmp_path: Path, margin: float, threshold: int | None) -> None:
    top1 = {
        ("BN", 4): [50.0, 51.0, 52.1],
        ("BN", 16): [60.0, 61.1, 62.0],
        ("BN", 64): [63.0, 64.0, 65.0],
    }
    write(tmp_path, top1)
    answer = answers(tmp_path, margin)["bn_loses", "BN"]
    assert answer.norm_batch_size == threshold
    if threshold == 64:
        assert "below norm batch 64: at 16 it is −2.97 points" in answer.sentence
    if threshold is None:
        assert "not shown to lose more than 20 points" in answer.sentence


def test_a_gap_in_the_middle_is_no_threshold(tmp_path: Path) -> None:
    # At 16 it surely loses, at 4 not surely: so there is no batch below which it does.
    top1 = {
        ("BN", 4): [40.0, 64.0, 70.0],
        ("BN", 16): [60.0, 61.0, 62.0],
        ("BN", 64): [63.0, 64.0, 65.0],
    }
    write(tmp_path, top1)
    assert answers(tmp_path)["bn_loses", "BN"].norm_batch_size is None


def test_what_did_not_complete_is_told(tmp_path: Path) -> None:
    for run in expand_runs():
        if run.model.norm.label == "BN":
            state = "diverged" if run.batch.norm == 4 else "completed"
            top1 = 50.0 + run.batch.norm * (1 + run.seed / 100)
            write_run(tmp_path, run, top1_percent=[top1], layers=["a"], state=state)
    found = answers(tmp_path)
    assert found["left_out", ""].sentence == (
        "Left out of these, since they did not complete: BN at 4: 3 diverged."
    )
    assert found["bn_loses", "BN"].norm_batch_size == 64


def test_batches_per_gpu_are_kept_apart(tmp_path: Path) -> None:
    for per_gpu, top1 in ((64, 60.0), (16, 50.0)):
        batch = {"global_batch_size": 64, "batch_size_per_gpu": per_gpu, "norm_batch_size": [16, 64]}
        for run in expand_runs(batch=batch, model={"arch": "small_resnet20"}):
            value = top1 + run.batch.norm / 10 * (1 + run.seed / 100)
            write_run(tmp_path, run, top1_percent=[value], layers=["a"])
    found = answers_below(tmp_path)
    loses = [answer for answer in found if answer.kind == "bn_loses"]
    assert [answer.norm_batch_size for answer in loses] == [64, 64]
    assert ["batch per GPU 16: BN" in answer.sentence for answer in loses].count(True) == 1


def test_a_shift_of_zero_is_no_logarithm(tmp_path: Path) -> None:
    top1 = {("BN", size): [50.0, 50.0, 50.0] for size in (4, 16, 64)}
    write(tmp_path, top1, {("BN", size): [0.0, 1.0, 1.0] for size in (4, 16, 64)})
    answer = answers(tmp_path)["esm_per_halving", "BN"]
    assert answer.estimate is not None
    assert answer.estimate.n == 2


def test_two_seeds_allow_no_claim(tmp_path: Path) -> None:
    write(tmp_path, {("BN", 4): [50.0, 50.0], ("BN", 16): [60.0, 60.0], ("BN", 64): [60.0, 60.0]})
    answer = answers(tmp_path)["bn_loses", "BN"]
    assert answer.norm_batch_size is None
    assert answer.sentence.startswith("BN is not shown to lose")


def test_one_norm_batch_has_nothing_along_it(tmp_path: Path) -> None:
    write(tmp_path, {("BN", 4): [50.0, 50.0, 50.0]})
    assert answers(tmp_path) == {}


def test_what_stopping_saved_is_counted_at_each_runs_own_pace(tmp_path: Path) -> None:
    runs = [run for run in expand_runs() if run.model.norm.label == "BN" and run.batch.norm == 4]
    cuda = {**PROVENANCE, "device_type": "cuda"}
    # Two hours of one run and half an hour of another, which left four epochs of 12.5 s on one rank.
    write_run(tmp_path, runs[0], top1_percent=[1.0] * 6, provenance=cuda, rank_s=7200.0)
    write_run(
        tmp_path,
        runs[1],
        top1_percent=[1.0] * 2,
        provenance=cuda,
        state="stopped",
        final=False,
        rank_s=1800.0,
        stopped_by="asha",
    )
    write_run(tmp_path, runs[2], top1_percent=[], provenance=cuda, state="failed", final=False, rank_s=360.0)
    collection = collect([tmp_path])
    runs = collection.tables.runs.to_pylist()
    found = study_answers(collection, "synthetic-sweep", ["top1_percent"], 1.0)
    assert found.states == {"completed": 1, "failed": 1, "stopped": 1}
    assert (found.trained_epochs, found.saved_epochs) == (8, 4)
    assert (found.rank_h, found.saved_rank_h) == pytest.approx((2.6, 4 * 12.5 / 3600), rel=1e-3)
    theirs = study_answers(collection, "another", ["top1_percent"], 1.0)
    assert (theirs.rank_h, theirs.read_rank_h) == pytest.approx((0.0, 2.6), rel=1e-3)
    sentence = cost_sentence(found)
    assert sentence == "2.60 GPU-hours; 1 run stopped early, which saved 4 of 12 epochs (0.0139 GPU-hours)."

    # 2.6 rank-hours are 156 minutes.
    on_cpus = cost_sentence(replace(theirs, on_gpus=False, states={}))
    assert on_cpus == "0.00 minutes of CPU ranks; the reused runs had taken 156."

    into = tmp_path / "book"
    into.mkdir()
    for cache in (None, tmp_path / "cache"):
        folders = [Path(run["folder"]) for run in runs]
        write_study(folders, into, "synthetic-sweep", ["top1_percent"], 1.0, cache)
    assert (tmp_path / "cache").is_dir()
    table = pd.read_parquet(into / "results.parquet")
    assert dict(zip(table.run_id, table.state, strict=True)) == {r["run_id"]: r["state"] for r in runs}
    plain = json.loads((into / "answers.json").read_text())
    assert plain["cost"]["rank_hours_saved_by_stopping"] == pytest.approx(50 / 3600)
    assert [path.name for path in into.iterdir() if path.name.startswith(".")] == []


def test_a_run_that_cannot_be_read_is_left_out_of_a_studys_answers(tmp_path: Path) -> None:
    good, bad = (write_run(tmp_path, run) for run in expand_runs()[:2])
    (bad / "run.json").write_text('{"experiment": "of another age"}')
    found = write_study(
        [good, bad, tmp_path / "not-begun"], tmp_path, "synthetic-sweep", ["top1_percent"], 1.0
    )
    assert sum(found.states.values()) == 1
    console = Console(file=io.StringIO(), width=300)
    print_study(console, found)
    assert f"not read: {bad}: " in console.file.getvalue()


def test_beating_bn_is_adjusted_over_the_norm_batches(tmp_path: Path) -> None:
    # Differences 2, 3, 4: t = 3√3, p = 0.035 alone, 0.07 where a second norm batch is looked at as well.
    batch = {"global_batch_size": 64, "norm_batch_size": [4, 64]}
    model = {"arch": "small_resnet20", "norm": [{"kind": "bn"}, {"kind": "xbn"}]}
    for run in expand_runs(batch=batch, model=model):
        is_ahead = run.model.norm.label != "BN" and run.batch.norm == 4
        write_run(tmp_path, run, top1_percent=[62.0 + run.seed if is_ahead else 60.0])
    (told,) = (a for a in answers_below(tmp_path) if a.kind == "xbn_beats_bn")
    assert told.norm_batch_size is None
    assert "is not shown to beat BN" in told.sentence
