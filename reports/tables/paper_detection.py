"""The paper's AP of Faster R-CNN on COCO beside ours, by images per GPU."""

from collections.abc import Iterator

import pandas as pd

from reports.aggregate import estimate_of, summarise
from reports.frames import Frames
from reports.numbers import EMPTY, Number, count_cell, estimate_cell
from reports.paper.published import LABELS, Series, load_paper
from reports.tables.table import Cell, Column, Table

NETWORK, DATA, METRIC = "faster_rcnn-2fc resnet50", "coco", "ap_percent"
# Our norms by the paper's rows. Whether its BN was frozen there, it does not say.
OURS = {
    "detection/bn": ("BN", "BN-frozen"),
    "detection/gn": ("GN32",),
    "detection/xbn-gn": ("XBN-P2-GN64", "XBN-P2-GN64-frozen"),
}
COLUMNS = ("Images per GPU", "Norm, paper", "AP, paper (%)", "Norm, ours", "Runs", "AP, ours (%)")


def paper_detection_display(frames: Frames) -> Table | None:
    """Return the table; None when no completed run is of the paper's detector on COCO."""
    runs = frames.completed
    if not ((runs.arch == NETWORK) & (runs.data == DATA)).any():
        return None
    cells = summarise(frames, [METRIC])
    cells = cells[(cells.arch == NETWORK) & (cells.data == DATA)]
    series = load_paper().of("detection")
    rows = [row for one in series for row in _rows(one, cells)]
    kinds = dict.fromkeys(COLUMNS, "number") | {"Norm, paper": "text", "Norm, ours": "text"}
    notes = [
        *sorted({f"{one.label}: {LABELS[one.label]}, ± {one.tolerance:g} points." for one in series}),
        "The paper's numbers hardly come from the released configs, which freeze every remaining BN and see "
        "16 images in each of 90k iterations: a difference from ours does not say which of the two is wrong.",
    ]
    columns = [Column(name, "text" if kinds[name] == "text" else "number") for name in COLUMNS]
    return Table("Beside the paper: AP on COCO", columns, rows, row_header=1, notes=notes)


def _rows(series: Series, cells: pd.DataFrame) -> Iterator[list[Cell]]:
    """Yield a row for each batch of the paper's row and each of our norms that was run there."""
    for images, value in series.values.items():
        paper: list[Cell] = [count_cell(int(images)), series.norm, Number(value, 2, remark=series.label)]
        chosen = cells[(cells.batch_size_per_gpu == int(images)) & cells.norm.isin(OURS[series.id])]
        if chosen.empty:
            yield [*paper, EMPTY, EMPTY, EMPTY]
        for _, row in chosen.iterrows():
            ours = estimate_cell(estimate_of(row, METRIC), int(row[f"{METRIC}_n"]), decimals=2)
            yield [*paper, str(row.norm), count_cell(int(row.completed)), ours]
