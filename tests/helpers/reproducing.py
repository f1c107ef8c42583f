"""`shiftbench reproduce` on few images, for its tests; the fixtures are imported where they are used."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from jobs.reproduce import claim_experiments
from reports.claims import load_registration
from reports.write.report_folder import ReportFiles, build_report

CLAIMS = load_registration().content.claims
CARRIED = (f"data.name={claim_experiments.CARRIED}",)
# Runs of twelve epochs on few images: seconds.
TINY = ("data.train_images=32", "data.val_images=20", "recipe.epochs=12", "recipe.lr=0.1")
TINY_NET = (
    "model={arch: small_resnet11, norm: [{kind: bn}, {kind: xbn, position: p2, bfn: gn, num_groups: 8}]}",
    "data.train_images=32",
    "data.val_images=20",
    "recipe.epochs=1",
)


def reproduce(folder: Path, *arguments: str) -> Result:
    where = ["--output-dir", str(folder / "runs"), "--out", str(folder / "out")]
    return CliRunner().invoke(app, ["reproduce", *arguments, *where])


@pytest.fixture(autouse=True)
def carried_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data set on this machine but the carried one."""
    monkeypatch.setattr(claim_experiments, "DEBIAN_FOLDER", tmp_path / "absent")
    monkeypatch.setattr(claim_experiments, "default_root", lambda: tmp_path / "data")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick A and D made tiny."""
    small = {
        "A": dataclasses.replace(claim_experiments.PLANS["A"], quick=TINY),
        "D": dataclasses.replace(claim_experiments.PLANS["D"], quick=TINY_NET),
    }
    monkeypatch.setattr(claim_experiments, "PLANS", {**claim_experiments.PLANS, **small})


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """The arguments of all reports of a test. The first is built, and its result returned for the others."""
    calls: list[tuple[Any, Any]] = []
    results: list[ReportFiles] = []

    def build_once(*arguments: Any, **options: Any) -> ReportFiles:
        calls.append((arguments, options))
        if not results:
            results.append(build_report(*arguments, **options))
        return results[0]

    monkeypatch.setattr("reports.write.report_folder.build_report", build_once)
    return calls
