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

TRAINING = [90.0 - 5 * epoch for epoch in range(10)] + [30.0] * 9 + [10.0]  # 45 at epoch 10
LATE = [90.0] * 12 + [70.0, 60.0, 50.0, 40.0, 30.0, 25.0, 22.0, 20.0]


def write_errors(root: Path, training: Sequence[float], inference: Sequence[float]) -> list[Run]:
    """Seeds that lie 0.1 % apart."""
    runs = mlp_runs()
    for run in runs:
        near = [[error + run.seed / 10 for error in errors] for errors in (training, inference)]
        write(root, run, training=near[0], inference=near[1], esm_sigma=[1.0] * 20)
    return runs


def test_a_holds_where_inference_guesses_while_training_learns(tmp_path: Path) -> None:
    result = judged("A", tmp_path, write_errors(tmp_path, TRAINING, LATE))
    assert result.verdict == "holds"
    assert [check.estimate.mean for check in result.checks if check.estimate] == pytest.approx(
        [90.1, 45.1, 20.1, 10.1]
    )
    papers = [(c.paper.value, c.paper.tolerance, c.paper.label) for c in result.checks if c.paper]
    assert papers == [(n, 0.5, "figure") for n in (90, 49, 4, 2)]


@pytest.mark.parametrize(
    ("training", "inference", "failing"),
    [
        (TRAINING, [84.0, *LATE[1:]], 0),  # it guesses better than by chance at the first epoch
        ([90.0] * 10 + TRAINING[10:], LATE, 1),  # nothing is learnt until epoch 10
        (TRAINING, [*LATE[:-1], 40.0], 2),  # the estimates never catch up
        ([*TRAINING[:-1], 30.0], LATE, 3),  # training does not get there
    ],
)
def test_a_fails_on_each_of_its_parts(
    tmp_path: Path, training: list[float], inference: list[float], failing: int
) -> None:
    result = judged("A", tmp_path, write_errors(tmp_path, training, inference))
    assert result.verdict == "fails"
    assert [i for i, outcome in enumerate(outcomes(result)) if outcome == "fails"] == [failing]
    assert f"{result.checks[failing].sentence[1:]}." in result.evidence


def test_a_is_open_where_runs_did_not_evaluate_their_training_images(tmp_path: Path) -> None:
    result = judged("A", tmp_path, write_errors(tmp_path, TRAINING, []))
    assert result.verdict == "inconclusive"
    assert "3 of 3 values were not measured" in result.evidence


# ---------------------------------------------------------------- D

XBN_GN = {"kind": "xbn", "position": "p2", "bfn": "gn", "num_groups": 8}
XBN_IN = {"kind": "xbn", "position": "p2", "bfn": "in"}


def write_noisy(root: Path, at_half: Sequence[float], seeds: int = 3) -> list[Run]:
    """Top-1 80 without noise and with δ = 0.1; over 0.3 and 0.5 means of these, for BN, XBN-GN and XBN-IN."""
    runs = resnet_runs((BN, XBN_GN, XBN_IN), seeds=seeds)
    for place, run in enumerate(runs):
        noisy = at_half[place // seeds] + wobble(run.seed, place // seeds)
        write(
            root,
            run,
            layers=["bn1"],
            esm_sigma=[1.0],
            noise={0.0: 80.0, 0.1: 80.0, 0.3: noisy + 4, 0.5: noisy - 4},
        )
    return runs


def test_d_holds_where_bn_loses_most_and_xbn_in_least(tmp_path: Path) -> None:
    result = judged("D", tmp_path, write_noisy(tmp_path, (60.0, 72.0, 76.0)))
    assert result.verdict == "holds"
    # Above the 10 % of guessing: 20, 8 and 4 of 70 points are lost at two magnitudes of three.
    means = [check.estimate.mean for check in result.checks if check.estimate]
    assert means == pytest.approx([100 * 12 / 70 * 2 / 3, 100 * 4 / 70 * 2 / 3])
    paper = result.checks[0].paper
    assert paper is not None
    xbn = ((77.3 + 76.1 + 74.0) / 3 - 0.1) / (77.4 - 0.1)
    bn = ((76.0 + 73.6 + 67.4) / 3 - 0.1) / (76.3 - 0.1)
    assert paper.value == pytest.approx(100 * (xbn - bn))


def test_d_is_open_where_all_guess_however_accurate_they_are_without_noise(tmp_path: Path) -> None:
    runs = resnet_runs((BN, XBN_GN, XBN_IN), seeds=3)
    clean = {"BN": 60.0, "XBN-P2-GN8": 80.0, "XBN-P2-IN": 50.0}
    for place, run in enumerate(runs):
        guesses = dict.fromkeys((0.1, 0.3, 0.5), 10 + 0.1 * (place * 7 % 5 - 2))
        write(
            tmp_path,
            run,
            layers=["bn1"],
            esm_sigma=[1.0],
            noise={0.0: clean[run.model.norm.label], **guesses},
        )
    assert judged("D", tmp_path, runs).verdict == "inconclusive"


@pytest.mark.parametrize("at_half", [(72.0, 60.0, 76.0), (60.0, 76.0, 72.0)])
def test_d_fails_in_another_order(tmp_path: Path, at_half: tuple[float, float, float]) -> None:
    assert judged("D", tmp_path, write_noisy(tmp_path, at_half)).verdict == "fails"


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
    assert [check.estimate.mean for check in result.checks if check.estimate] == pytest.approx([5.0, -1.515])
    assert "by construction" in result.evidence


@pytest.mark.parametrize(
    ("top1", "esm", "expected"),
    [
        ({"bn": 75, "xbn": 70, "gn": 80}, {"bn": 2.0, "xbn": 0.5}, ["fails", "holds"]),
        ({"bn": 70, "xbn": 75, "gn": 80}, {"bn": 0.5, "xbn": 2.0}, ["holds", "fails"]),
        ({"bn": 70, "xbn": 70, "gn": 80}, {"bn": 2.0, "xbn": 0.5}, ["inconclusive", "holds"]),
    ],
)
def test_e_needs_both_accuracy_and_shift(
    tmp_path: Path, top1: dict[str, float], esm: dict[str, float], expected: list[str]
) -> None:
    assert outcomes(judged("E", tmp_path, write_batches(tmp_path, top1, esm))) == expected


# ---------------------------------------------------------------- F

SITES = [
    {"kind": "xbn", "position": position, "bfn": bfn, **({"num_groups": 8} if bfn in ("gn", "gw") else {})}
    for bfn in ("gn", "ln", "in", "gw")
    for position in ("p1", "p2", "p3")
]


def write_positions(root: Path, top1: Sequence[float]) -> list[Run]:
    """Final top-1 of GN, LN, IN and GW at P1, P2 and P3."""
    runs = resnet_runs((BN, *SITES))
    for place, run in enumerate(runs):
        value = 50.0 if place < 3 else top1[place // 3 - 1]
        write(root, run, layers=["fc"], esm_sigma=[1.0], top1_percent=value + wobble(run.seed, place // 3))
    return runs


def test_f_holds_in_the_papers_order(tmp_path: Path) -> None:
    top1 = (74, 76, 73, 60, 75, 70, 50, 74, 72, 72, 73, 71)
    result = judged("F", tmp_path, write_positions(tmp_path, top1))
    assert result.verdict == "holds"
    # 76 − 74, 76 − 73; worst 73 against 60, 50 and 71.
    assert [c.estimate.mean for c in result.checks if c.estimate] == pytest.approx([2, 3, 13, 23, 2])
    assert all(check.paper is None for check in result.checks)
    assert "only the order is judged" in result.evidence


@pytest.mark.parametrize(
    ("top1", "failing"),
    [
        ((77, 76, 73, 60, 75, 70, 50, 74, 72, 72, 73, 71), 0),
        ((74, 76, 78, 60, 75, 70, 50, 74, 72, 72, 73, 71), 1),
        ((60, 76, 73, 70, 75, 70, 50, 74, 72, 50, 73, 71), 2),
    ],
)
def test_f_fails_in_another_order(tmp_path: Path, top1: Sequence[float], failing: int) -> None:
    result = judged("F", tmp_path, write_positions(tmp_path, top1))
    assert result.verdict == "fails"
    assert [i for i, outcome in enumerate(outcomes(result)) if outcome == "fails"] == [failing]


# ---------------------------------------------------------------- what did not complete


@pytest.mark.parametrize("state", ["failed", "diverged", "running"])
def test_a_run_that_did_not_complete_leaves_a_claim_open_and_says_why(tmp_path: Path, state: str) -> None:
    runs = write_errors(tmp_path, TRAINING, LATE)
    write(tmp_path, runs[0], state=state, reason="loss is nan at step 3")
    result = judged("A", tmp_path, runs)
    assert result.verdict == "inconclusive"
    assert result.runs == "2 of 3"
    assert "Of 3 runs 1 did not complete" in result.evidence


def test_a_run_that_was_never_begun_is_missed(tmp_path: Path) -> None:
    runs = [*write_errors(tmp_path, TRAINING, LATE), *mlp_runs((500,))]
    result = judged("A", tmp_path, runs)
    assert result.verdict == "inconclusive"
    assert "Of 6 runs 3 did not complete: 3 not begun" in result.evidence


def test_a_run_that_cannot_be_read_is_missed(tmp_path: Path) -> None:
    runs = write_errors(tmp_path, TRAINING, LATE)
    (tmp_path / runs[0].folder_name / "run.json").write_text("{}")
    result = judged("A", tmp_path, runs)
    assert result.verdict == "inconclusive"
    assert "1 unreadable" in result.evidence


def test_a_claim_without_any_run_says_so(tmp_path: Path) -> None:
    result = judged("A", tmp_path, mlp_runs())
    assert (result.verdict, result.checks) == ("inconclusive", [])
    assert "No run has begun" in result.evidence
