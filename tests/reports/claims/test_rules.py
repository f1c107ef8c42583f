"""Each claim's rule on records that must hold, must fail, and must leave it open. Numbers by hand."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from suite.experiment import Run
from tests.helpers.claim_folders import judged, mlp_runs, outcomes, resnet_runs, write

BN, GN = {"kind": "bn"}, {"kind": "gn", "num_groups": 8}


def wobble(seed: int, norm: int) -> float:
    """What seeds differ by, and norms a little differently; over the seeds 0 to 2 all norms alike."""
    return seed / 10 + 0.01 * norm * (seed - 1)


# ---------------------------------------------------------------- A

# At epoch 10 an error of 90 % in inference mode; the training error of the same weights is that of epoch 11.
TRAINING = [90.0 - 4 * epoch for epoch in range(12)]
INFERENCE, CORRECTED = [90.0] * 12, [70.0] * 12


def write_errors(root: Path, training: Sequence[float], inference: Sequence[float]) -> list[Run]:
    """Seeds whose errors in training lie 0.1 % apart."""
    runs = mlp_runs()
    for run in runs:
        near = [error + run.seed / 10 for error in training]
        write(root, run, training=near, inference=inference, corrected=CORRECTED, esm_sigma=[1.0] * 20)
    return runs


def test_a_holds_where_inference_guesses_while_training_learns(tmp_path: Path) -> None:
    result = judged("A", tmp_path, write_errors(tmp_path, TRAINING, INFERENCE))
    assert result.verdict == "holds"
    (gap,), (corrected,) = result.checks, result.shown
    assert gap.estimate is not None
    assert corrected.estimate is not None
    assert gap.estimate.mean == pytest.approx(90 - (50 + 0.1))
    assert corrected.estimate.mean == pytest.approx(70 - (50 + 0.1))
    assert gap.paper is not None
    assert (gap.paper.value, gap.paper.tolerance, gap.paper.label) == (90 - 49, 1.0, "figure")
    assert "at epoch" not in result.evidence
    assert "warm-up of the running averages" in result.evidence


@pytest.mark.parametrize("inference", [[65.0] * 12, [90.0] * 9 + [60.0] * 3])
def test_a_fails_where_the_gap_at_epoch_10_is_small(tmp_path: Path, inference: list[float]) -> None:
    result = judged("A", tmp_path, write_errors(tmp_path, TRAINING, inference))
    assert result.verdict == "fails"
    assert f"{result.checks[0].sentence[1:]}." in result.evidence


def test_a_is_open_where_runs_did_not_evaluate_their_training_images(tmp_path: Path) -> None:
    for place, (training, inference) in enumerate(((TRAINING, []), (TRAINING[:10], INFERENCE))):
        folder = tmp_path / str(place)
        result = judged("A", folder, write_errors(folder, training, inference))
        assert result.verdict == "inconclusive"
        assert "3 of 3 values were not measured" in result.evidence


# ---------------------------------------------------------------- D

XBN_GN = {"kind": "xbn", "position": "p2", "bfn": "gn", "num_groups": 8}
XBN_IN = {"kind": "xbn", "position": "p2", "bfn": "in"}


def write_noisy(
    root: Path, noisy: Sequence[float], common_of_bn: float | None = None, seeds: int = 3
) -> list[Run]:
    """Top-1 80 without noise; means with δ of 0.1 and 0.2 for BN, XBN-GN and XBN-IN.

    `common_of_bn`: BN's where only the common layers have noise.
    """
    runs = resnet_runs((BN, XBN_GN, XBN_IN), seeds=seeds)
    for place, run in enumerate(runs):
        near = wobble(run.seed, place // seeds)
        mean = noisy[place // seeds] + near
        common = None
        if place < seeds and common_of_bn is not None:
            common = {0.0: 80.0, 0.1: common_of_bn + near, 0.2: common_of_bn + near}
        noise = {0.0: 80.0, 0.1: mean + 4, 0.2: mean - 4}
        write(root, run, layers=["bn1"], esm_sigma=[1.0], noise=noise, common_noise=common)
    return runs


def test_d_holds_where_bn_loses_most_and_xbn_in_least(tmp_path: Path) -> None:
    result = judged("D", tmp_path, write_noisy(tmp_path, (60.0, 72.0, 76.0), common_of_bn=67.0))
    assert result.verdict == "holds"
    # Above the 10 % of guessing: 20, 8 and 4 of 70 points are lost, and 13 with noise on the common layers.
    means = [check.estimate.mean for check in result.checks if check.estimate]
    assert means == pytest.approx([100 * 12 / 70, 100 * 5 / 70, 100 * 4 / 70])
    assert "on the BN layers that all have" in result.checks[1].measured
    paper = result.checks[0].paper
    assert paper is not None
    xbn = ((77.3 + 76.8) / 2 - 0.1) / (77.4 - 0.1)
    bn = ((76.0 + 74.9) / 2 - 0.1) / (76.3 - 0.1)
    assert paper.value == pytest.approx(100 * (xbn - bn))


def test_d_fails_where_only_the_number_of_noisy_layers_made_the_difference(tmp_path: Path) -> None:
    result = judged("D", tmp_path, write_noisy(tmp_path, (60.0, 72.0, 76.0), common_of_bn=76.0))
    assert outcomes(result) == ["holds", "fails", "holds"]


def test_d_is_absent_where_gn_and_in_lose_alike(tmp_path: Path) -> None:
    result = judged("D", tmp_path, write_noisy(tmp_path, (60.0, 72.0, 72.0), seeds=6))
    assert outcomes(result) == ["holds", "holds", "absent"]
    assert result.verdict == "absent"


def test_d_is_open_where_a_network_guesses_without_noise(tmp_path: Path) -> None:
    runs = resnet_runs((BN, XBN_GN, XBN_IN), seeds=3)
    for run in runs:
        write(tmp_path, run, layers=["bn1"], esm_sigma=[1.0], noise=dict.fromkeys((0.0, 0.1, 0.2), 9.0))
    assert judged("D", tmp_path, runs).verdict == "inconclusive"


@pytest.mark.parametrize("noisy", [(72.0, 60.0, 76.0), (60.0, 76.0, 72.0)])
def test_d_fails_in_another_order(tmp_path: Path, noisy: tuple[float, float, float]) -> None:
    assert judged("D", tmp_path, write_noisy(tmp_path, noisy)).verdict == "fails"


def test_d_is_open_with_a_run_that_was_not_perturbed_or_whose_file_is_damaged(tmp_path: Path) -> None:
    runs = write_noisy(tmp_path, (60.0, 72.0, 76.0))
    noise = tmp_path / runs[0].folder_name / "noise.json"
    noise.write_text(json.dumps({**json.loads(noise.read_text()), "schema_version": 99}))
    assert judged("D", tmp_path, runs).verdict == "inconclusive"
    noise.unlink()
    result = judged("D", tmp_path, runs)
    assert result.verdict == "inconclusive"
    assert "1 of 3 values were not measured" in result.evidence


def test_two_seeds_are_too_few_however_far_apart(tmp_path: Path) -> None:
    result = judged("D", tmp_path, write_noisy(tmp_path, (10.0, 40.0, 76.0), seeds=2))
    assert result.verdict == "inconclusive"
    assert "2 seeds, where 3 are needed" in result.evidence


# ---------------------------------------------------------------- E


def write_batches(root: Path, top1: dict[str, float], esm: dict[str, float]) -> list[Run]:
    """At norm batch 2; at 32 all are alike."""
    runs = resnet_runs((BN, XBN_GN, GN), norm_batches=(2, 32))
    for run in runs:
        kind, small = run.model.norm.kind, run.batch.norm == 2
        layers = {"bn": ["bn1", "fc"], "xbn": ["fc"], "gn": []}[kind]
        near = 1 + run.seed / 100
        # BN's own layer must not count: only `fc` is common.
        sigma = [99.0, esm[kind] * near][-len(layers) :] if layers else []
        write(
            root,
            run,
            layers=layers,
            esm_sigma=sigma,
            top1_percent=(top1[kind] if small else 90.0) + wobble(run.seed, list(top1).index(kind)),
        )
    return runs


def test_e_holds_where_xbn_is_ahead_at_the_smallest_norm_batch(tmp_path: Path) -> None:
    runs = write_batches(tmp_path, {"bn": 70, "xbn": 75, "gn": 80}, {"bn": 2.0, "xbn": 0.5})
    result = judged("E", tmp_path, runs)
    assert result.verdict == "holds"
    means = [check.estimate.mean for check in result.checks if check.estimate]
    assert means == pytest.approx([5.0, -1.515 / 2])  # of the scaled shift
    assert "by construction" in result.evidence


@pytest.mark.parametrize(
    ("top1", "esm", "expected"),
    [
        ({"bn": 75, "xbn": 70, "gn": 80}, {"bn": 2.0, "xbn": 0.5}, ["fails", "holds"]),
        ({"bn": 70, "xbn": 75, "gn": 80}, {"bn": 0.5, "xbn": 2.0}, ["holds", "fails"]),
        ({"bn": 70, "xbn": 70, "gn": 80}, {"bn": 2.0, "xbn": 0.5}, ["absent", "holds"]),
    ],
)
def test_e_needs_both_accuracy_and_shift(
    tmp_path: Path, top1: dict[str, float], esm: dict[str, float], expected: list[str]
) -> None:
    assert outcomes(judged("E", tmp_path, write_batches(tmp_path, top1, esm))) == expected


# ---------------------------------------------------------------- F

SITES = [
    *({"kind": "xbn", "position": position, "bfn": "gn", "num_groups": 8} for position in ("p1", "p2", "p3")),
    *({"kind": "xbn", "position": "p2", "bfn": bfn} for bfn in ("ln", "in")),
    {"kind": "xbn", "position": "p2", "bfn": "gw", "num_groups": 8},
]


def write_positions(root: Path, top1: Sequence[float]) -> list[Run]:
    """Final top-1 of GN at P1, P2 and P3, and of LN, IN and GW at P2."""
    runs = resnet_runs(SITES)
    for place, run in enumerate(runs):
        value = top1[place // 3] + wobble(run.seed, place // 3)
        write(root, run, layers=["fc"], esm_sigma=[1.0], top1_percent=value)
    return runs


def test_f_holds_in_the_papers_order(tmp_path: Path) -> None:
    result = judged("F", tmp_path, write_positions(tmp_path, (74, 76, 73, 60, 70, 73)))
    assert result.verdict == "holds"
    assert [c.estimate.mean for c in result.checks if c.estimate] == pytest.approx([2, 3, 16, 6, 3])
    assert all(check.paper is None for check in result.checks)
    assert "only the order is judged" in result.evidence


@pytest.mark.parametrize(
    ("top1", "expected"),
    [
        ((77, 76, 73, 60, 70, 71), ["fails", "holds", "holds", "holds", "holds"]),
        ((74, 76, 78, 60, 70, 71), ["holds", "fails", "holds", "holds", "holds"]),
        ((74, 76, 73, 60, 78, 71), ["holds", "holds", "holds", "fails", "holds"]),
        ((76, 76, 73, 60, 70, 71), ["absent", "holds", "holds", "holds", "holds"]),
    ],
)
def test_f_fails_in_another_order_and_is_absent_without_a_difference(
    tmp_path: Path, top1: Sequence[float], expected: list[str]
) -> None:
    result = judged("F", tmp_path, write_positions(tmp_path, top1))
    assert result.verdict == ("fails" if "fails" in expected else "absent")
    assert outcomes(result) == expected


# ---------------------------------------------------------------- what did not complete


@pytest.mark.parametrize("state", ["failed", "diverged", "running"])
def test_a_run_that_did_not_complete_leaves_a_claim_open_and_says_why(tmp_path: Path, state: str) -> None:
    runs = write_errors(tmp_path, TRAINING, INFERENCE)
    write(tmp_path, runs[0], state=state, reason="loss is nan at step 3")
    result = judged("A", tmp_path, runs)
    assert result.verdict == "inconclusive"
    assert result.runs == "2 of 3"
    assert "Of 3 runs 1 did not complete" in result.evidence


def test_a_run_that_was_never_begun_is_missed(tmp_path: Path) -> None:
    runs = [*write_errors(tmp_path, TRAINING, INFERENCE), *mlp_runs((500,))]
    result = judged("A", tmp_path, runs)
    assert result.verdict == "inconclusive"
    assert "Of 6 runs 3 did not complete: 3 not begun" in result.evidence


def test_a_run_that_cannot_be_read_is_missed(tmp_path: Path) -> None:
    runs = write_errors(tmp_path, TRAINING, INFERENCE)
    (tmp_path / runs[0].folder_name / "run.json").write_text("{}")
    result = judged("A", tmp_path, runs)
    assert result.verdict == "inconclusive"
    assert "1 unreadable" in result.evidence


def test_a_claim_without_any_run_says_so(tmp_path: Path) -> None:
    result = judged("A", tmp_path, mlp_runs())
    assert (result.verdict, result.checks) == ("inconclusive", [])
    assert "No run has begun" in result.evidence
