"""Claims G and H on records that must hold, must fail, and must leave them open. Numbers by hand."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest

from reports.claims import load_registration, register
from reports.claims.registration import COPY, FILE, check_registered
from suite.errors import UserError
from suite.experiment import Run
from suite.paths import RunPaths
from tests.helpers.claim_folders import judged, outcomes, resnet_runs, write
from tests.helpers.shifted_records import grid, write_shifts

BN = {"kind": "bn"}
XBN_GN = {"kind": "xbn", "position": "p2", "bfn": "gn", "num_groups": 8}
XBN_IN = {"kind": "xbn", "position": "p2", "bfn": "in"}
SHIFTS = load_registration().content.shifts
CELLS = grid(SHIFTS.corruptions, SHIFTS.severities)
CLEAN, CHANCE = 90.0, 10.0
WOBBLE = {"bn": 0.3, "gn": 0.1, "in": 0.2}  # by which the three seeds differ


def write_lost(
    root: Path, lost: Mapping[str, float], esm_of: Mapping[tuple[str, int], float] | None = None
) -> list[Run]:
    """Runs that lose so many percent on average over `CELLS`, along which the loss grows."""
    runs = resnet_runs((BN, XBN_GN, XBN_IN))
    for run in runs:
        norm = run.model.norm
        name = "bn" if norm.kind == "bn" else norm.bfn  # type: ignore[union-attr]
        write(root, run, layers=["bn1"], esm_sigma=[1.0])
        middle = (len(CELLS) - 1) / 2
        top1, esm = {}, {}
        for place, cell in enumerate(CELLS):
            share = lost[name] + WOBBLE[name] * (run.seed - 1) + (place - middle) / 10
            top1[cell] = CLEAN - (CLEAN - CHANCE) * share / 100
            esm[cell] = 0.1 + place / 100
        esm = dict(esm_of or esm)
        for one, other in list(pairwise(CELLS))[: 2 * run.seed : 2]:  # so many pairs in the wrong order
            esm[one], esm[other] = esm[other], esm[one]
        write_shifts(root, run, CLEAN, top1, esm)
    return runs


@pytest.mark.parametrize(("bn", "verdict"), [(30.0, "holds"), (20.0, "absent"), (10.0, "fails")])
def test_g_compares_what_corruptions_cost_bn_and_xbn(tmp_path: Path, bn: float, verdict: str) -> None:
    result = judged("G", tmp_path, write_lost(tmp_path, {"bn": bn, "gn": 20.0, "in": 26.0}))
    assert result.verdict == verdict
    (check,), (shown,) = result.checks, result.shown
    assert check.values == pytest.approx([bn - 20.2, bn - 20.0, bn - 19.8])
    assert shown.values == pytest.approx([bn - 26.1, bn - 26.0, bn - 25.9])
    assert "lost to 14 corruptions at severities 1, 3, 5, BN less XBN-GN" in check.measured


def test_h_ranks_the_shifts_of_each_network(tmp_path: Path) -> None:
    result = judged("H", tmp_path, write_lost(tmp_path, {"bn": 30.0, "gn": 20.0, "in": 26.0}))
    assert result.verdict == "holds"
    # Spearman's ρ = 1 − 6 Σd² / (n³ − n); each pair in the wrong order has d² = 1 twice.
    rho = [1 - 6 * 2 * wrong / (42**3 - 42) for wrong in range(3)]
    assert result.checks[0].values == pytest.approx(rho)
    backwards = {cell: 1 - place / 100 for place, cell in enumerate(CELLS)}
    folder = tmp_path / "backwards"
    result = judged("H", folder, write_lost(folder, {"bn": 30.0, "gn": 20.0, "in": 26.0}, backwards))
    assert result.verdict == "fails"
    assert result.checks[0].values == pytest.approx([-value for value in rho])


@pytest.mark.parametrize("letter", ["G", "H"])
def test_a_run_that_lacks_a_shift_leaves_the_claim_open(tmp_path: Path, letter: str) -> None:
    runs = write_lost(tmp_path, {"bn": 30.0, "gn": 20.0, "in": 26.0})
    for run in runs[:1]:
        write_shifts(tmp_path, run, CLEAN, dict.fromkeys(CELLS[1:], 50.0))
    result = judged(letter, tmp_path, runs)
    assert result.verdict == "inconclusive"
    assert "1 of 3 values were not measured" in result.evidence
    RunPaths(tmp_path / runs[1].folder_name).robustness.unlink()
    assert "2 of 3 values were not measured" in judged(letter, tmp_path, runs).evidence


def test_shifts_beyond_the_registered_ones_change_no_verdict(tmp_path: Path) -> None:
    runs = write_lost(tmp_path, {"bn": 30.0, "gn": 20.0, "in": 26.0})
    before = judged("G", tmp_path, runs).checks[0].values
    run = runs[0]
    middle = (len(CELLS) - 1) / 2
    share = {cell: 29.7 + (place - middle) / 10 for place, cell in enumerate(CELLS)}
    top1 = {cell: CLEAN - (CLEAN - CHANCE) * value / 100 for cell, value in share.items()}
    write_shifts(tmp_path, run, CLEAN, {**top1, ("fog", 2): 10.0, ("glass_blur", 5): 10.0})
    assert judged("G", tmp_path, runs).checks[0].values == pytest.approx(before)
    assert outcomes(judged("G", tmp_path, runs)) == ["holds"]


# ---------------------------------------------------------------- registered later than other claims


def without_later_claims(text: str) -> str:
    """The file as it was before G and H, which have the shifts to themselves."""
    head, _, rest = text.partition("shifts:\n")
    claims = rest[rest.index("claims:\n") :]
    return head + claims[: claims.index("  G:\n")]


def test_a_folder_of_earlier_claims_gets_the_later_ones_until_they_were_measured(tmp_path: Path) -> None:
    copy = tmp_path / COPY
    copy.parent.mkdir(parents=True)
    copy.write_text(without_later_claims(FILE.read_text()))
    check_registered(tmp_path)
    runs = write_lost(tmp_path, {"bn": 30.0, "gn": 20.0, "in": 26.0})
    folders = [tmp_path / run.folder_name for run in runs]
    with pytest.raises(UserError, match="was measured under shifts before their claims were registered"):
        register(tmp_path, folders)
    for folder in folders:
        RunPaths(folder).robustness.unlink()
    register(tmp_path, folders)
    assert copy.read_bytes() == FILE.read_bytes()


def test_a_folder_with_another_rule_of_an_earlier_claim_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / COPY
    copy.parent.mkdir(parents=True)
    copy.write_text(without_later_claims(FILE.read_text()).replace("bound: 20", "bound: 19"))
    with pytest.raises(UserError, match=r"claims\.yaml: differs from .*: restore it, or choose another"):
        check_registered(tmp_path)


def test_registered_shifts_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(FILE.read_text().replace("severities: [1, 3, 5]", "severities: []", 1))
    with pytest.raises(UserError, match=r"shifts\.severities"):
        load_registration(path)
