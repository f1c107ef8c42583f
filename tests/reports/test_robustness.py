"""What a report says of robustness, on hand-made records: numbers by hand or by other libraries."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from reports.collect import collect
from reports.findings.robustness import by_norm, predictions, rank_correlation, rows_at_test_time, shift_rows
from reports.frames import CONTEXT, Frames, build_frames
from reports.write.render import render_html, render_markdown
from suite.config import expand
from suite.errors import UserError
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import RobustnessRecord, TestTimeRecord, read_robustness, write_robustness
from suite.specs.corruption_table import COMMON, CORRUPTIONS
from tests.helpers.composed import composed
from tests.helpers.records import expand_runs, write_run
from tests.helpers.shifted_records import grid, shift_record, write_shifts

CELLS = grid(("fog", "contrast", "gaussian_noise"), (1, 3))
# Of BN and XBN, at the cells in order.
LOST = {"BN": (10.0, 40.0, 5.0, 20.0, 30.0, 60.0), "XBN": (6.0, 30.0, 5.0, 12.0, 20.0, 50.0)}

SEED_COSTS = {"BN": 1.0, "XBN": 0.9}  # points for each seed, which a pair does not share wholly


def two_norms(root: Path) -> list[Run]:
    """BN and XBN with three seeds, which lose a little more one after another of 90 % top-1."""
    runs = [run for run in expand_runs(batch={"global_batch_size": 64}) if run.model.norm.kind != "gn"]
    for run in runs:
        write_run(root, run)
        kind = "BN" if run.model.norm.kind == "bn" else "XBN"
        clean = 90.0
        lost = [value + run.seed * SEED_COSTS[kind] for value in LOST[kind]]
        top1 = {cell: clean - 0.8 * share for cell, share in zip(CELLS, lost, strict=True)}
        esm = {
            cell: 0.02 * share + 0.01 * place
            for place, (cell, share) in enumerate(zip(CELLS, lost, strict=True))
        }
        write_shifts(root, run, clean, top1, esm, test_time=streams(run.seed))
    return runs


def streams(seed: int) -> list[TestTimeRecord]:
    """Prediction-time BN gains 4 points on fog and loses 30 on the sorted stream."""
    top1 = {("frozen", "mixed"): 60.0, ("prediction-time", "mixed"): 64.0}
    top1 |= {("frozen", "by_label"): 60.0, ("prediction-time", "by_label"): 30.0}
    return [
        TestTimeRecord(
            shifts=(("fog", 3),), method=method, order=order, images_per_batch=64, num_images=1000,  # type: ignore[arg-type]
            top1_percent=value + seed,
        )
        for (method, order), value in top1.items()
    ]  # fmt: skip


def frames_of(root: Path) -> Frames:
    return build_frames(collect([root]))


def test_the_share_lost_is_of_the_accuracy_above_chance(tmp_path: Path) -> None:
    two_norms(tmp_path)
    rows = shift_rows(frames_of(tmp_path))
    assert len(rows) == 6 * len(CELLS)
    fog = rows[(rows["shift"] == "fog") & (rows.severity == 3) & (rows.norm == "BN") & (rows.seed == 2)].iloc[
        0
    ]
    assert fog.share_lost == pytest.approx(42)  # 90 − 0.8 · 42 = 56.4 of 90, of which 10 is chance
    assert fog.esm == pytest.approx(0.02 * 42 + 0.01)
    assert fog.clean_esm == pytest.approx(0.1)
    assert fog.confidence_lost == pytest.approx(0.8 * 42)


def test_norms_are_ranked_by_what_they_lose(tmp_path: Path) -> None:
    two_norms(tmp_path)
    xbn, bn = by_norm(shift_rows(frames_of(tmp_path)))
    assert (xbn.cell["norm"], bn.cell["norm"]) == ("XBN-P2-GN8", "BN")
    assert bn.share_lost is not None
    assert bn.share_lost.mean == pytest.approx(np.mean(LOST["BN"]) + 1)
    low, high = scipy_stats.t.interval(0.95, 2, bn.share_lost.mean, 1 / math.sqrt(3))
    assert bn.share_lost.interval == pytest.approx((low, high))
    weather = bn.by_family["weather"]
    assert weather is not None
    assert weather.mean == pytest.approx((10 + 40) / 2 + 1)
    assert (bn.mce, bn.relative_mce) == (None, None)  # not ImageNet


def test_mce_by_hand(tmp_path: Path) -> None:
    content = {
        "model": {"arch": "resnet18"},
        "data": {"name": "imagenet", "path": "/data"},
        "batch": {"global_batch_size": 64},
        "seeds": [0, 1, 2],
    }
    for run in expand(content, name="imagenet").runs:
        write_run(tmp_path, run, layers=["bn1"])
        # Top-1 falls by 5 points a severity, from 60; the mean error of each corruption is 50 %.
        top1 = {(name, severity): 65.0 - 5 * severity for name in COMMON for severity in range(1, 6)}
        write_shifts(tmp_path, run, 70.0, top1, num_classes=1000)
    (found,) = by_norm(shift_rows(frames_of(tmp_path)))
    alexnet = np.array([CORRUPTIONS[name].alexnet_error_percent for name in COMMON])
    assert found.mce is not None
    assert found.relative_mce is not None
    assert found.mce.mean == pytest.approx(100 * np.mean(50 / alexnet))
    assert found.relative_mce.mean == pytest.approx(100 * np.mean((50 - 30) / (alexnet - 43.5)))


def test_mce_needs_all_corruptions_at_all_severities(tmp_path: Path) -> None:
    content = {
        "model": {"arch": "resnet18"},
        "data": {"name": "imagenet", "path": "/data"},
        "batch": {"global_batch_size": 64},
    }
    (run,) = expand(content, name="imagenet").runs
    write_run(tmp_path, run, layers=["bn1"])
    top1 = {(name, severity): 50.0 for name in COMMON for severity in range(1, 6)}
    del top1["fog", 2]
    write_shifts(tmp_path, run, 70.0, top1, num_classes=1000)
    (found,) = by_norm(shift_rows(frames_of(tmp_path)))
    assert found.mce is None


def test_the_rank_correlation_is_scipys() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = pd.Series(rng.integers(0, 6, 12).astype(float)), pd.Series(rng.normal(size=12))
        assert rank_correlation(a, b) == pytest.approx(scipy_stats.spearmanr(a, b).statistic)
    assert math.isnan(rank_correlation(pd.Series([1.0, 1.0]), pd.Series([1.0, 2.0])))


def test_the_prediction_leaves_out_the_corruption_that_it_is_judged_on(tmp_path: Path) -> None:
    two_norms(tmp_path)
    rows = shift_rows(frames_of(tmp_path))
    (found,) = predictions(rows, CONTEXT)
    assert (found.num_points, found.num_seeds) == (36, 3)
    by_seed = [scipy_stats.spearmanr(one.esm, one.share_lost).statistic for _, one in rows.groupby("seed")]
    assert found.correlation is not None
    assert found.correlation.mean == pytest.approx(np.mean(by_seed))
    errors: dict[str, list[float]] = {"constant": [], "esm": [], "confidence_lost": []}
    for seed in range(3):
        misses: dict[str, list[float]] = {name: [] for name in errors}
        for name in rows["shift"].unique():
            known = rows[(rows["shift"] != name) & (rows.seed != seed)]
            out = rows[(rows["shift"] == name) & (rows.seed == seed)]
            misses["constant"] += abs(known.share_lost.mean() - out.share_lost).tolist()
            for predictor in ("esm", "confidence_lost"):
                line = np.polyfit(known[predictor], known.share_lost, 1)
                misses[predictor] += abs(np.polyval(line, out[predictor]) - out.share_lost).tolist()
        for name, values in misses.items():
            errors[name].append(float(np.mean(values)))
    for name, values in errors.items():
        estimate = found.error[name]
        assert estimate is not None
        assert estimate.mean == pytest.approx(np.mean(values))
    less = found.less_error["constant"]
    assert less is not None
    assert less.mean == pytest.approx(np.mean(errors["constant"]) - np.mean(errors["esm"]))
    # The confidence is the accuracy plus five points here: a straight line knows all.
    assert found.error["confidence_lost"].mean == pytest.approx(0, abs=1e-9)  # type: ignore[union-attr]


def test_gains_at_test_time_are_over_the_estimates_on_the_same_stream(tmp_path: Path) -> None:
    two_norms(tmp_path)
    rows = rows_at_test_time(frames_of(tmp_path))
    gains = rows[rows.method == "prediction-time"].groupby("order").gain.agg(["min", "max"])
    assert gains.loc["mixed"].tolist() == [4, 4]
    assert gains.loc["by_label"].tolist() == [-30, -30]


def test_the_page_has_the_answer_first_and_the_tables_behind(tmp_path: Path) -> None:
    two_norms(tmp_path)
    report = composed(tmp_path)
    assert report.robustness is not None
    cost, prediction = report.robustness.sentences
    assert cost.startswith("Corruptions cost XBN-P2-GN8 the least: 21.4")
    assert "where they cost BN 28.5 %; 7.1 points less than the next" in cost
    assert prediction.startswith(
        "ESM, measured without labels, ranks shifts by what they cost: rank correlation 0."
    )
    assert [table.title for table in report.robustness.tables] == [
        "What corruptions cost",
        "Does ESM predict what a shift costs?",
        "Statistics chosen at test time",
        "Each shift",
    ]
    table = report.robustness.tables[2]
    assert [row[2:5] for row in table.texts if row[0] == "BN"] == [
        ["mixed", "64", "prediction-time"],
        ["sorted by label", "64", "prediction-time"],
    ]
    each = report.robustness.tables[3]
    assert [row[:2] for row in each.texts] == [
        [shift, norm] for shift in ("fog", "contrast", "gaussian_noise") for norm in ("BN", "XBN-P2-GN8")
    ]
    assert [figure.slug for figure in report.figures_of("robustness")] == ["cost-by-shift"]
    html, text = render_html(report), render_markdown(report)
    for page in (html, text):
        assert page.index("Robustness to distribution shift") < page.index("What corruptions cost")
        assert "Corruptions cost XBN-P2-GN8 the least" in page
    assert {table.title for table in report.robustness.tables} <= {table.title for table in report.tables()}


def test_a_report_without_such_records_has_no_word_of_them(tmp_path: Path) -> None:
    write_run(tmp_path, expand_runs()[0])
    report = composed(tmp_path)
    assert report.robustness is None
    assert "Robustness" not in render_html(report)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"schema_version": 9}', '{"schema_version": 1, "step": "x"}']
)
def test_a_malformed_record_is_left_out_and_refused_by_name(tmp_path: Path, content: str) -> None:
    run, *_ = two_norms(tmp_path)
    path = RunPaths(tmp_path / run.folder_name).robustness
    path.write_text(content)
    assert shift_rows(frames_of(tmp_path)).run.nunique() == 5
    part = composed(tmp_path).robustness
    assert part is not None
    assert (
        part.sentences[-1] == f"robustness.json of 1 run cannot be read, and is left out: {run.folder_name}."
    )
    with pytest.raises(
        UserError, match=r"robustness\.json: not a robustness\.json of this version; remove it"
    ):
        read_robustness(RunPaths(path.parent))


def test_a_network_that_guesses_has_no_share_to_lose(tmp_path: Path) -> None:
    run = expand_runs()[0]
    write_run(tmp_path, run)
    write_shifts(tmp_path, run, 10.0, dict.fromkeys(CELLS, 10.0))
    rows = shift_rows(frames_of(tmp_path))
    assert rows.share_lost.isna().all()
    assert predictions(rows, CONTEXT) == []
    report = composed(tmp_path)
    assert report.robustness is not None
    assert report.robustness.sentences == []


def test_a_norm_is_ranked_over_the_shifts_that_all_runs_have(tmp_path: Path) -> None:
    runs = two_norms(tmp_path)
    spared = next(run for run in runs if run.model.norm.kind == "bn")
    # Without fog, which costs BN most: its mean over what is left would be too good.
    write_shifts(tmp_path, spared, 90.0, {cell: 80.0 for cell in CELLS if cell[0] != "fog"})
    xbn, _ = by_norm(shift_rows(frames_of(tmp_path)))
    assert xbn.share_lost is not None
    assert xbn.share_lost.mean == pytest.approx(np.mean(LOST["XBN"][2:]) + 0.9)


def test_of_several_numbers_of_images_the_most_count(tmp_path: Path) -> None:
    run = expand_runs()[0]
    write_run(tmp_path, run)
    few = [shift_record("clean", None, 50.0, max_images=10), shift_record("fog", 1, 10.0, max_images=10)]
    many = [shift_record("clean", None, 90.0, max_images=None), shift_record("fog", 1, 50.0, max_images=None)]
    record = RobustnessRecord(step=1, data=run.data.name, shifts=(*few, *many))
    write_robustness(RunPaths(tmp_path / run.folder_name), record)
    assert shift_rows(frames_of(tmp_path)).share_lost.tolist() == [pytest.approx(50)]
    assert shift_rows(frames_of(tmp_path), 10).share_lost.tolist() == [pytest.approx(100)]


def test_a_shift_with_fewer_classes_is_compared_with_clean_images_of_these(tmp_path: Path) -> None:
    run = expand_runs()[0]
    write_run(tmp_path, run)
    clean = shift_record("clean", None, 50.0)
    art = shift_record("art", None, 60.0, num_classes=2).model_copy(
        update={"kind": "folder", "source": "/art", "reference": (70.0, 75.0)}
    )
    record = RobustnessRecord(step=1, data=run.data.name, shifts=(clean, art))
    write_robustness(RunPaths(tmp_path / run.folder_name), record)
    (row,) = shift_rows(frames_of(tmp_path)).itertuples()
    assert row.share_lost == pytest.approx(50)  # 60 of 70, of which 50 is chance
    assert row.confidence_lost == pytest.approx(75 - 80)


def test_a_record_has_each_result_once() -> None:
    clean = shift_record("clean", None, 50.0)
    with pytest.raises(ValueError, match="expected each result once"):
        RobustnessRecord(step=1, data="x", shifts=(clean, clean))
