"""Tables of robustness: norms by what corruptions cost them, the prediction by ESM, methods of test time."""

from collections.abc import Sequence

import pandas as pd

from reports.findings.robustness import PREDICTORS, NormRobustness, Prediction
from reports.frames import AXIS_HEADERS, CONTEXT, GROUP
from reports.numbers import bracket_cell, count_cell, estimate_cell
from reports.stats import mean_interval
from reports.tables.table import Cell, Column, Table
from suite.specs.corruption_table import FAMILIES

_NAMING = [axis for axis in GROUP if axis in ("norm", "norm_batch_size")]
Axes = Sequence[str]


def varying(cells: Sequence[dict[str, object]], always: Axes = _NAMING) -> list[str]:
    """Return the axes that tell these cells apart, and those that are always shown."""
    found = [axis for axis in GROUP if axis in always or len({str(cell.get(axis)) for cell in cells}) > 1]
    return sorted(found, key=lambda axis: axis != "norm")  # first, since it names the row


def norm_display(found: Sequence[NormRobustness]) -> Table | None:
    """A row for each cell, the least loss first; None without corruptions."""
    if not found:
        return None
    axes = varying([one.cell for one in found])
    has_mce = any(one.mce is not None for one in found)
    columns = [
        *(Column(AXIS_HEADERS.get(axis, axis), "text") for axis in axes),
        Column("Clean top-1 (%)", better="higher"),
        Column("Accuracy lost (%)", better="lower"),
        *(Column(f"… {family}") for family in FAMILIES),
        Column("Scaled ESM, clean"),
        Column("Scaled ESM, corrupted"),
        *([Column("mCE (%)", better="lower"), Column("Relative mCE (%)", better="lower")] if has_mce else []),
    ]
    rows: list[list[Cell]] = []
    for one in found:
        seeds = one.share_lost.n if one.share_lost else 0
        cells: list[Cell] = [str(one.cell[axis]) for axis in axes]
        cells += [estimate_cell(one.clean_top1, seeds, 2), estimate_cell(one.share_lost, seeds, 1)]
        cells += [estimate_cell(one.by_family.get(family), seeds, 1) for family in FAMILIES]
        cells += [estimate_cell(value, seeds, 3) for value in (one.clean_esm, one.esm)]
        cells += [estimate_cell(value, seeds, 1) for value in (one.mce, one.relative_mce)] if has_mce else []
        rows.append(cells)
    notes = [
        "Accuracy lost: share of the clean top-1 above chance that a corruption costs, mean over corruptions "
        "and severities, then over seeds; … by family of corruptions.",
        "Scaled ESM: mean over BN layers of √(ESM_μ² + ESM_σ²); the estimates are those of training.",
    ]
    if has_mce:
        notes.append("mCE weighs each corruption by AlexNet's error (Hendrycks and Dietterich 2019).")
    return Table("What corruptions cost", columns, rows, row_header=axes.index("norm"), notes=notes)


def prediction_display(found: Sequence[Prediction]) -> Table | None:
    """A row for each context; None where there is nothing to predict."""
    if not found:
        return None
    axes = [axis for axis in CONTEXT if len({str(one.context[axis]) for one in found}) > 1]
    columns = [
        *(Column(AXIS_HEADERS.get(axis, axis), "text") for axis in axes),
        Column("Networks × shifts"),
        Column("Seeds"),
        Column("Rank correlation of ESM and accuracy lost"),
        *(Column(f"Error by {name} (points)", better="lower") for name in PREDICTORS.values()),
    ]
    rows: list[list[Cell]] = [
        [
            *(str(one.context[axis]) for axis in axes),
            count_cell(one.num_points),
            count_cell(one.num_seeds),
            bracket_cell(one.correlation),
            *(estimate_cell(one.error[name], one.num_seeds, 1) for name in PREDICTORS),
        ]
        for one in found
    ]
    notes = [
        "Rank correlation: Spearman's, over all networks with BN and all corruptions and severities of a "
        "seed; mean over seeds and its interval.",
        "Error: mean absolute error on a corruption that the straight line was not fitted on. A constant, "
        "and the confidence that the network loses, are what ESM has to beat. None of them needs labels of "
        "the shifted images.",
    ]
    return Table("Does ESM predict what a shift costs?", columns, rows, notes=notes)


def display_at_test_time(rows: pd.DataFrame) -> Table | None:
    """Gains over unchanged estimates by norm, order, batch and method; None where none was measured."""
    rows = rows[rows.gain.notna() & (rows.method != "frozen")]
    if rows.empty:
        return None
    keys = ["norm", "order", "images_per_batch", "method"]
    columns = [
        Column("Norm", "text"),
        Column("Stream", "text"),
        Column("Images per batch"),
        Column("Method", "text"),
        *(Column(header, better="higher") for header in ("Clean", "Shifts", "All mixed")),
    ]
    shown: list[list[Cell]] = []
    breaks = set()
    last = None
    for names, group in rows.groupby(keys, observed=True, sort=False):
        if last is not None and names[:3] != last:
            breaks.add(len(shown))
        last = names[:3]
        is_clean, is_mixed = group["shift"] == "clean", group["shift"] == "all"
        cells = []
        for part in (group[is_clean], group[~is_clean & ~is_mixed], group[is_mixed]):
            estimate = mean_interval(part.groupby("seed").gain.mean().tolist())
            cells.append(estimate_cell(estimate, group.seed.nunique(), 1, signed=True))
        order = {"mixed": "mixed", "by_label": "sorted by label"}[str(names[1])]
        shown.append([str(names[0]), order, count_cell(int(str(names[2]))), str(names[3]), *cells])
    notes = [
        "Points of top-1 gained over the unchanged estimates on the same stream. Shifts: mean over all, each "
        "at its highest severity. All mixed: each batch has images of all corruptions.",
        "Methods and sources: docs/science.md. Statistics of a batch fail where a batch has few classes: on "
        "streams that are sorted by label.",
    ]
    return Table("Statistics chosen at test time", columns, shown, notes=notes, breaks=frozenset(breaks))
