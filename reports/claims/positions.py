"""Claim F: P2 is the best position of a batch-free norm, and GN the most stable of them.

The paper says so and gives no numbers, so the order alone is judged. Of final top-1, paired by seed:

- GN at P2 less GN at P1, and less GN at P3, is above 0;
- GN at its worst position less each other norm at its worst position is above 0.
"""

import math
from collections.abc import Iterator

from reports.claims.check import Check, paired
from reports.frames import Frames

# The label of a cell: XBN-P2-GN8, XBN-P1-LN.
POSITIONS = ("P1", "P2", "P3")
NORMS = ("GN", "LN", "IN", "GW")


def top1_by_site(frames: Frames) -> dict[tuple[str, str], dict[int, float]]:
    """By norm and position, seed → final top-1 (%)."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    done = frames.completed[frames.completed.norm_rank == 1]
    for label, seed, top1 in zip(done.norm, done.seed, done.top1_percent, strict=True):
        _, position, norm = str(label).split("-")[:3]
        found.setdefault((norm.rstrip("0123456789"), position), {})[int(seed)] = float(top1)
    return found


def checks(frames: Frames) -> Iterator[Check]:
    top1 = top1_by_site(frames)
    seeds = sorted({seed for by_seed in top1.values() for seed in by_seed})
    for other in ("P1", "P3"):
        values = paired(top1.get(("GN", "P2"), {}), top1.get(("GN", other), {}))
        yield Check(f"top-1, GN at P2 less at {other}", "points", values, "above", 0, 2)
    worst = {
        norm: {
            seed: _worst([top1.get((norm, p), {}).get(seed, math.nan) for p in POSITIONS]) for seed in seeds
        }
        for norm in NORMS
    }
    for norm in NORMS[1:]:
        values = paired(worst["GN"], worst[norm])
        yield Check(f"top-1 at the worst position, GN less {norm}", "points", values, "above", 0, 2)


def _worst(values: list[float]) -> float:
    """NaN when a position is missing: the worst may be that one."""
    return math.nan if any(math.isnan(value) for value in values) else min(values)
