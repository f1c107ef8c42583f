"""The table of `shiftbench scale`: a row for each number of nodes."""

import math
from collections import Counter

from reports.findings.scaling import PARTS, Point, Scaling
from reports.findings.slow_nodes import SlowRank, slowest_rank
from reports.numbers import EMPTY, Number, count_cell, plural, short_cell, significant_decimals
from reports.stats import Estimate
from reports.tables.table import Cell, Column, Table

_HEADERS = {
    "compute_share": "Computing (%)",
    "communication_share": "Communication (%)",
    "data_wait_share": "Data (%)",
}


# A terminal has not the width for all columns with their intervals: each of these is a table of its own.
FOR_A_TERMINAL = (
    ("Ranks", "Cells", "Images/s", "Ideal"),
    ("Speed-up", "Efficiency (%)"),
    ("Step (ms)", *_HEADERS.values(), "Epoch end (s)", "Slowest rank"),
)


def scaling_table(scaling: Scaling) -> Table:
    """Speed, efficiency and what a step consists of; parts that no run measured are left out."""
    parts = [name for name in PARTS if any(not math.isnan(p.mean(name)) for p in scaling.points)]
    has_ends = any(not math.isnan(point.mean("epoch_end_time_s")) for point in scaling.points)
    slowest = [_slowest(point) for point in scaling.points]
    columns = [Column("Nodes"), Column("Ranks"), Column("Cells", "text")]
    columns += [Column(name) for name in ("Images/s", "Ideal", "Speed-up", "Efficiency (%)", "Step (ms)")]
    columns += [Column(_HEADERS[name]) for name in parts]
    columns += [Column("Epoch end (s)")] if has_ends else []
    columns += [Column("Slowest rank", "text")] if any(slowest) else []
    rows = []
    for point, rank in zip(scaling.points, slowest, strict=True):
        row: list[Cell] = [count_cell(point.nodes), count_cell(point.ranks) if point.ranks else EMPTY]
        row += [_states(point), _cell(point.speed)]
        row += [EMPTY if point.ideal_images_per_s is None else short_cell(point.ideal_images_per_s)]
        row += [_cell(point.speedup), _cell(point.efficiency, 1, 100)]
        row += [short_cell(point.mean("step_time_p50_ms"))]
        row += [_share(point.mean(name)) for name in parts]
        row += [short_cell(point.mean("epoch_end_time_s"))] if has_ends else []
        row += [EMPTY if rank is None else f"{rank.rank} on {rank.node}, × {rank.ratio:.2f}"] * any(slowest)
        rows.append(row)
    return Table(scaling.title, columns, rows, notes=_notes(scaling, any(slowest)))


def _states(point: Point) -> str:
    counts = Counter(one.state for one in point.timings)
    return ", ".join(f"{number} {state}" for state, number in counts.items())


def _cell(estimate: Estimate | None, decimals: int | None = None, factor: float = 1.0) -> Cell:
    """The mean with its interval, or both of two values."""
    if estimate is None:
        return EMPTY
    mean = factor * estimate.mean
    bounds, both = (
        None if ends is None else (factor * ends[0], factor * ends[1])
        for ends in (estimate.interval, estimate.both)
    )
    return Number(
        mean, significant_decimals(mean) if decimals is None else decimals, bounds=bounds, both=both
    )


def _share(value: float) -> Cell:
    return EMPTY if math.isnan(value) else Number(100 * value, 1)


def _slowest(point: Point) -> SlowRank | None:
    """The rank that exceeds the others of its run most, over all repeats."""
    found = [slowest_rank(one.rank_times) for one in point.timed if one.rank_times is not None]
    return max(filter(None, found), key=lambda one: one.ratio, default=None)


def _notes(scaling: Scaling, has_ranks: bool) -> list[str]:
    notes = [
        "Images/s over the timed steps, the first ones left out; intervals are of 95 % over repeats "
        "(Student's t), of two repeats both values are given. Speed-up and efficiency are ratios to "
        "the fewest nodes, repeat by repeat; ideal is as many times their speed as there are nodes. Parts of "
        "a step are those of the first rank; communication is what the backward pass does not hide."
    ]
    if shared := [f"{point.nodes} ({point.only_place})" for point in scaling.points if point.only_place]:
        notes.append(
            "Repeats have seeds of their own, and every other one began with the most nodes. But Slurm gave "
            f"all repeats the same nodes where their number is {', '.join(shared)}: how nodes differ is not "
            "in those intervals."
        )
    if has_ranks:
        notes.append(
            "Slowest rank: that which works longest before the others' gradients reach it, beside the median "
            "of the other ranks."
        )
    for one in scaling.unfinished:
        why = f": {one.reason}" if one.reason else ""
        notes.append(f"{plural(one.nodes, 'node')}, repeat {one.repeat}: {one.state}{why}")
    return notes
