"""The walk-through runs, and says what is true of the network that it trains."""

import runpy
from pathlib import Path
from typing import Any

import pytest

WALKTHROUGH = Path(__file__).parents[2] / "examples" / "walkthrough.py"


@pytest.fixture(scope="module")
def cells() -> dict[str, Any]:
    return runpy.run_path(str(WALKTHROUGH))


def test_the_walkthrough_measures_a_shift_that_accumulates(cells: dict[str, Any]) -> None:
    profile, attribution, table = cells["profile"], cells["attribution"], cells["table"]
    assert len(profile.layers) == cells["DEPTH"]
    for layer, split in zip(profile.layers, attribution.layers, strict=True):
        assert split.sigma.own + split.sigma.inherited == pytest.approx(layer.esm_sigma_scaled)
    # It is inherited that accumulates. The first layer has nobody to inherit from but the data.
    inherited = [split.sigma.inherited for split in attribution.layers]
    assert abs(inherited[0]) < inherited[4] < inherited[-1]
    frozen, precise = (
        next(row for row in table.rows if row.name == name) for name in ("frozen", "PreciseBN")
    )
    assert precise.esm_sigma_scaled < frozen.esm_sigma_scaled
    assert frozen.accuracy_percent > 25  # of ten classes: it has learnt


def test_every_result_can_be_plotted(cells: dict[str, Any]) -> None:
    for name, field in (
        ("profile", "value"),
        ("attribution", "esm"),
        ("origins", "esm_sigma_vanished"),
        ("table", "top1_percent"),
        ("noise", "top1_percent"),
    ):
        chart = cells[name].plot().to_dict()
        data = [row for rows in chart["datasets"].values() for row in rows]
        assert any(field in row for row in data), name
