"""Claim F: P2 is the best position of a batch-free norm, and GN the most stable of them.

The paper says so and gives no numbers, so the order alone is judged. Of final top-1, paired by seed:

- GN at P2 less GN at P1, and less GN at P3, is above 0;
- GN at its worst position less each other norm at its worst position is above 0.
"""

import math
from collections.abc import Iterator
from functools import partial

from reports.claims.check import Measured, Rule, paired
from reports.frames import Frames

# As the claim names them: a norm that is added later is not part of its rules.
POSITIONS = ("p1", "p2", "p3")
CLAIMED_NORMS = ("gn", "ln", "in", "gw")


def top1_by_site(frames: Frames) -> dict[tuple[str, str], dict[int, float]]:
    """By batch-free norm and position, seed → final top-1 (%)."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    done = frames.completed[frames.completed.norm_family == "xbn"]
    for bfn, position, seed, top1 in zip(done.bfn, done.position, done.seed, done.top1_percent, strict=True):
        found.setdefault((bfn, position), {})[int(seed)] = float(top1)
    return found


def _at_p2_less_at(position: str, frames: Frames) -> Iterator[Measured]:
    top1 = top1_by_site(frames)
    yield Measured(paired(top1.get(("gn", "p2"), {}), top1.get(("gn", position), {})))


def _gn_less(bfn: str, frames: Frames) -> Iterator[Measured]:
    top1 = top1_by_site(frames)
    yield Measured(paired(_worst(top1, "gn"), _worst(top1, bfn)))


def _worst(top1: dict[tuple[str, str], dict[int, float]], bfn: str) -> dict[int, float]:
    """By seed the lowest top-1; NaN when a position is missing, since the worst may be that one."""
    seeds = {seed for by_seed in top1.values() for seed in by_seed}
    found = {s: [top1.get((bfn, p), {}).get(s, math.nan) for p in POSITIONS] for s in seeds}
    return {s: math.nan if any(map(math.isnan, values)) else min(values) for s, values in found.items()}


_AT_WORST = "top-1 at the worst position"
RULES = (
    tuple(
        Rule(f"top-1, GN at P2 less at {other.upper()}", "points", 2, partial(_at_p2_less_at, other), "above")
        for other in POSITIONS
        if other != "p2"
    )
    + tuple(
        Rule(f"{_AT_WORST}, GN less {bfn.upper()}", "points", 2, partial(_gn_less, bfn), "above")
        for bfn in CLAIMED_NORMS
        if bfn != "gn"
    ),
)
