"""Tables of robustness: norms by what corruptions cost them, the prediction by ESM, methods of test time."""

from collections.abc import Sequence

import pandas as pd

from reports.findings.robustness import ALL, PREDICTORS, NormRobustness, Prediction
from reports.frames import AXIS_HEADERS, CONTEXT, GROUP
from reports.numbers import EMPTY, bracket_cell, count_cell, estimate_cell
from reports.stats import mean_interval
from reports.tables.table import MAX_ROWS, Cell, Column, Table
from suite.specs.corruption_table import FAMILIES, RELEASED
from suite.specs.test_time_table import FROZEN, METHODS

_ORDERS = {"mixed": "mixed", "by_label": "sorted by label"}
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
        "and severities that all runs were measured under, then over seeds; … by family of corruptions.",
        "Scaled ESM: mean over a network's own BN layers of √(ESM_μ² + ESM_σ²); the estimates are those of "
        "training.",
    ]
    if has_mce:
        notes.append(
            "mCE weighs each corruption by AlexNet's error (Hendrycks and Dietterich 2019). Corruptions made "
            "here are not compressed as JPEG once more, as the released ones are: the two do not compare."
        )
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
        *(Column(f"ESM's less than {PREDICTORS[name]}'s") for name in PREDICTORS if name != "esm"),
    ]
    rows: list[list[Cell]] = [
        [
            *(str(one.context[axis]) for axis in axes),
            count_cell(one.num_points),
            count_cell(one.num_seeds),
            bracket_cell(one.correlation),
            *(estimate_cell(one.error[name], one.num_seeds, 1) for name in PREDICTORS),
            *(
                estimate_cell(one.less_error[name], one.num_seeds, 1, signed=True)
                for name in PREDICTORS
                if name != "esm"
            ),
        ]
        for one in found
    ]
    notes = [
        "Rank correlation: Spearman's, over all networks with BN and all corruptions and severities of a "
        "seed; mean over seeds and its interval. All seeds share their test images.",
        "Error: mean absolute error on a corruption and a seed that the straight line was not fitted on. A "
        "constant, and the confidence that the network loses, are what ESM has to beat. None of them needs "
        "labels of the shifted images.",
    ]
    return Table("Does ESM predict what a shift costs?", columns, rows, notes=notes)


def display_at_test_time(rows: pd.DataFrame) -> Table | None:
    """Gains over unchanged estimates by cell, order, batch and method; None where none was measured."""
    rows = rows[rows.method != FROZEN]
    if rows.empty:
        return None
    axes = varying([dict(zip(GROUP, cell, strict=True)) for cell, _ in rows.groupby(GROUP, observed=True)])
    keys = [*axes, "order", "images_per_batch"]
    columns = [
        *(Column(AXIS_HEADERS.get(axis, axis), "text") for axis in axes),
        Column("Stream", "text"),
        Column("Images per batch"),
        Column("Method", "text"),
        *(Column(header, better="higher") for header in ("Clean", "Shifts", "All mixed")),
    ]
    shown: list[list[Cell]] = []
    breaks = set()
    for names, block in rows.groupby(keys, observed=True, sort=False):
        if shown:
            breaks.add(len(shown))
        *cell, order, per_batch = names
        for method, group in block.groupby("method", sort=False):
            is_clean, is_mixed = group.stream == "clean", group.stream == ALL
            cells: list[Cell] = []
            for part in (group[is_clean], group[~is_clean & ~is_mixed], group[is_mixed]):
                estimate = mean_interval(part.groupby("seed").gain.mean().tolist())
                cells.append(estimate_cell(estimate, group.seed.nunique(), 1, signed=True))
            size = count_cell(int(str(per_batch)))
            shown.append([*map(str, cell), _ORDERS[str(order)], size, str(method), *cells])
    used = dict.fromkeys(str(method) for method in rows.method)
    notes = [
        "Points of top-1 gained over the unchanged estimates on the same stream. Shifts: mean over all, each "
        "at its highest severity. All mixed: each batch has images of all shifts.",
        *(f"{name}: {METHODS[name].meaning} ({METHODS[name].source})." for name in used if name in METHODS),
        "Statistics of a batch fail where a batch has few classes: on streams that are sorted by label.",
    ]
    return Table("Statistics chosen at test time", columns, shown, notes=notes, breaks=frozenset(breaks))


def shift_display(rows: pd.DataFrame) -> Table | None:
    """A row for each cell and shift, with its severities together; None without a shift."""
    if rows.empty:
        return None
    axes = varying([dict(zip(GROUP, cell, strict=True)) for cell, _ in rows.groupby(GROUP, observed=True)])
    columns = [
        Column("Shift", "text"),
        *(Column(AXIS_HEADERS.get(axis, axis), "text") for axis in axes),
        Column("Severities", "text"),
        Column("Top-1 (%)", better="higher"),
        Column("Loss (nat)", better="lower"),
        Column("Accuracy lost (%)", better="lower"),
        Column("Scaled ESM"),
    ]
    shown: list[list[Cell]] = []
    breaks = set()
    for (name, _), block in rows.groupby(["shift", "kind"], observed=True, sort=False):
        if shown:
            breaks.add(len(shown))
        for cell, group in block.groupby(axes, observed=True, sort=False):
            levels = sorted({int(level) for level in group.severity if level})
            estimates = [
                mean_interval(group.groupby("seed")[column].mean().tolist())
                for column in ("top1_percent", "loss", "share_lost", "esm")
            ]
            seeds = group.seed.nunique()
            numbers = [estimate_cell(one, seeds, d) for one, d in zip(estimates, (1, 2, 1, 3), strict=True)]
            severities = ", ".join(map(str, levels)) or EMPTY
            shown.append([str(name), *map(str, cell), severities, *numbers])
    notes = ["Means over the severities, then over seeds."]
    released = [name for name in dict.fromkeys(rows["shift"]) if name in RELEASED]
    notes += [f"{name}: {RELEASED[name].meaning} ({RELEASED[name].source})." for name in released]
    return Table("Each shift", columns, shown[:MAX_ROWS], notes=notes, breaks=frozenset(breaks))
