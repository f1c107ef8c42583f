"""The rules of claims B and C, on the scaled shift over depth, without the first layer. Numbers by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from suite.experiment import Run
from tests.helpers.claim_folders import GNBN, judged, mlp_runs, outcomes, write

BN = {"kind": "bn"}
ADDED = "32 images: mean scaled ESM σ behind the first layer, test less training images"
PIXELS = 500.0  # the first layer's, which no rule may see


def write_slopes(
    root: Path, slope_of: Callable[[int], float], sizes: Sequence[int] = (32, 256, 1024)
) -> list[Run]:
    """BN: scaled ESM σ is 0.25 and rises by half of the slope with each layer; seeds differ by 1 %.

    On the training images it is a tenth of that.
    """
    runs = mlp_runs(sizes)
    for run in runs:
        rise = slope_of(run.batch.global_batch_size) * (1 + run.seed / 100)
        raw = [PIXELS, *(0.5 + rise * layer for layer in range(1, 20))]
        write(root, run, esm_sigma=raw, on_training=[PIXELS, *(value / 20 for value in raw[1:])])
    return runs


def test_b_holds_where_small_sets_accumulate_more(tmp_path: Path) -> None:
    runs = write_slopes(tmp_path, lambda size: {32: 0.30, 256: 0.15, 1024: 0.05}[size])
    result = judged("B", tmp_path, runs)
    assert result.verdict == "holds"
    means = [check.estimate.mean for check in result.checks if check.estimate]
    # Half of the slopes, times 1.01; then ten layers (1 to 19, on average) times the slopes' differences.
    assert means == pytest.approx([0.1515, 0.07575, 0.02525, 0.7575, 0.505])
    shown = {check.measured: check.estimate.mean for check in result.shown if check.estimate}
    assert shown["32 less 256 images: slope"] == pytest.approx(0.07575)
    on_training = shown["32 images: mean scaled ESM σ behind the first layer, on the training images"]
    whole = 0.25 + 0.1515 * 10
    assert on_training == pytest.approx(whole / 10)
    assert shown[ADDED] == pytest.approx(whole - whole / 10)
    paper = result.checks[0].paper
    assert paper is not None
    # Layers 4 to 16 of the paper: (−6 · 4.65 − 2 · 5.9 + 2 · 6.4 + 6 · 6.2) / 80, and 0.1 · 16 / 80.
    assert (paper.value, paper.tolerance) == pytest.approx((0.12875, 0.02))


@pytest.mark.parametrize(
    ("slopes", "failing"),
    [
        (
            {32: 0.30, 256: 0.15, 1024: -0.20},
            "1,024 images: slope of the scaled ESM σ behind the first layer",
        ),
        (
            {32: 0.10, 256: 0.15, 1024: 0.01},
            "32 less 256 images: mean scaled ESM σ behind the first layer",
        ),
    ],
)
def test_b_fails_without_accumulation_or_out_of_order(
    tmp_path: Path, slopes: dict[int, float], failing: str
) -> None:
    result = judged("B", tmp_path, write_slopes(tmp_path, slopes.__getitem__))
    assert result.verdict == "fails"
    assert [check.measured for check in result.checks if check.outcome == "fails"] == [failing]


def test_b_is_open_where_seeds_disagree(tmp_path: Path) -> None:
    runs = mlp_runs((32, 256))
    for run in runs:
        rise = (-0.1, 0.2, 0.3)[run.seed]
        write(tmp_path, run, esm_sigma=[1 + rise * layer for layer in range(20)])
    assert judged("B", tmp_path, runs).verdict == "inconclusive"


def write_blocked(root: Path, gnbn_slope: float, first_behind: float = 0.5) -> list[Run]:
    """Raw: BN rises by 0.2 a layer, GNBN by the given slope; its second BN layer has a height of its own."""
    runs = mlp_runs((32,), (BN, GNBN))
    for run in runs:
        is_bn = run.model.norm.kind == "bn"
        rise = (0.2 if is_bn else gnbn_slope) * (1 + run.seed / 100)
        # What only BN has stands far off the line, and is no part of the comparison.
        heights = [0.5 + rise * layer + 9 * (layer == 19) for layer in range(0, 20, 1 if is_bn else 2)]
        heights[0] = PIXELS
        if not is_bn:
            heights[1] += (first_behind - 0.5) * (1 + run.seed / 1000)
        write(root, run, esm_sigma=heights)
    return runs


def test_c_holds_where_gnbn_is_flat(tmp_path: Path) -> None:
    result = judged("C", tmp_path, write_blocked(tmp_path, 0.01))
    assert result.verdict == "holds"
    less_quarter, ratio = (check.estimate.mean for check in result.checks if check.estimate)
    # 1.01 · (0.01 − 0.05) / 2; (0.5 + 18 · 0.01) / (0.5 + 2 · 0.01), times nearly 1 in each seed.
    assert less_quarter == pytest.approx(-0.0202)
    assert ratio == pytest.approx(0.68 / 0.52, rel=0.01)


def test_c_fails_where_gnbn_rises_by_more_than_a_quarter(tmp_path: Path) -> None:
    result = judged("C", tmp_path, write_blocked(tmp_path, 0.08))
    assert result.verdict == "fails"
    assert outcomes(result) == ["fails", "fails"]


def test_c_fails_where_flat_curves_do_not_coincide(tmp_path: Path) -> None:
    result = judged("C", tmp_path, write_blocked(tmp_path, 0.0, first_behind=1.1))
    assert outcomes(result) == ["holds", "fails"]
    assert result.verdict == "fails"
