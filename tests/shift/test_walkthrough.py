"""The walk-through's notebook is made of the script; it runs, and what it says of its network is true."""

import json
from typing import Any

import pytest

from website.walkthrough import NOTEBOOK, SCRIPT, Cell, cells_of, notebook


@pytest.fixture(scope="module")
def cells() -> dict[str, Any]:
    """What the notebook's cells leave behind, run in their order."""
    names: dict[str, Any] = {}
    for number, cell in enumerate(json.loads(NOTEBOOK.read_text())["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    return names


def test_the_notebook_is_made_from_the_script() -> None:
    assert NOTEBOOK.read_text() == notebook(cells_of(SCRIPT.read_text())), "run `make notebook`"


def test_cells_are_read_from_a_script() -> None:
    script = "# %% [markdown]\n# # Title\n#\n# Two\n# lines\n\n# %%\nx = 1\n\n# a remark\nx\n"
    assert cells_of(script) == [Cell(True, "# Title\n\nTwo\nlines"), Cell(False, "x = 1\n\n# a remark\nx")]
    with pytest.raises(ValueError, match="and not with 'import os'"):
        cells_of("import os\n# %%\n")
    with pytest.raises(ValueError, match=r"and not with # %% \[raw\]"):
        cells_of("# %% [raw]\n")


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
