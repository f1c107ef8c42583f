"""The table of the paper's top-1 beside ours."""

import pandas as pd

from reports.aggregate import estimate_of
from reports.frames import BEST_TOP1, Frames
from reports.numbers import EMPTY, Number
from reports.paper.matching_cells import EPOCHS, GLOBAL_BATCH, NORM_BATCH, TOP1, paper_cells
from reports.paper.published import LABELS, load_paper
from reports.tables.cell_tables import MakeCell, MetricCell, by_cell, runs_text
from reports.tables.table import Table


def paper_display(frames: Frames) -> Table | None:
    """Top-1 of ResNet-50 on ImageNet by norm; None when no completed run was trained as the paper's were."""
    found = paper_cells(frames)
    return None if found.empty else paper_table(found)


def paper_table(found: pd.DataFrame) -> Table:
    """What `paper_cells` found, as a table."""
    cells: dict[str, MakeCell] = {
        "Runs": runs_text,
        "Top-1, paper (%)": lambda row: Number(row.paper, 1, remark=row.label),
        "Ours, final (%)": MetricCell(TOP1, decimals=2, ranked=False),
        "Ours, best epoch (%)": MetricCell(BEST_TOP1, decimals=2, ranked=False),
        "Final less the paper's": _difference,
    }
    shown = [load_paper()[series] for series in found.series.unique()]
    notes = [
        f"The paper: {load_paper().title}, {load_paper().address}. It names no seeds.",
        *sorted({f"{s.label}: {LABELS[s.label]}, ± {s.tolerance:g} points." for s in shown}),
        f"Ours: the paper's recipe over {EPOCHS[0]} to {EPOCHS[-1]} epochs, global batch {GLOBAL_BATCH}, "
        f"norm batch {NORM_BATCH}; ± is half of a 95 % t interval over seeds.",
    ]
    if any(series.network_inferred for series in shown):
        notes.append("The paper's plot does not name its network: that it is ResNet-50 is inferred.")
    return by_cell("Beside the paper", found, cells, notes)


def _difference(row: pd.Series) -> Number | str:
    ours = estimate_of(row, TOP1)
    if ours is None:
        return EMPTY
    return Number(ours.mean - row.paper, 2, signed=True)
