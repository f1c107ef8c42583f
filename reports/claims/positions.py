"""Claim F: P2 is the best position of a batch-free norm, and GN the best of these norms.

The paper says so and gives no numbers, so the order alone is judged, of final top-1 and paired by seed. Every
position and norm is compared on its own: the lowest of several is lower than each by chance alone.
"""

from collections.abc import Iterator

from reports.claims.check import Measured, paired
from reports.frames import Frames

# As the claim names them: a norm that is added later is not part of its rules.
POSITIONS = ("p1", "p2", "p3")
CLAIMED_NORMS = ("gn", "ln", "in", "gw")
BySeed = dict[int, float]


def top1_by_site(frames: Frames) -> dict[tuple[str, str], BySeed]:
    """By batch-free norm and position, seed → final top-1 (%)."""
    found: dict[tuple[str, str], BySeed] = {}
    done = frames.completed[frames.completed.norm_family == "xbn"]
    for bfn, position, seed, top1 in zip(done.bfn, done.position, done.seed, done.top1_percent, strict=True):
        found.setdefault((bfn, position), {})[int(seed)] = float(top1)
    return found


def gn_at_p2_less_elsewhere(frames: Frames) -> Iterator[Measured]:
    """GN at P2 less GN at each other position that was run."""
    top1 = top1_by_site(frames)
    for other in (position for position in POSITIONS if position != "p2" and ("gn", position) in top1):
        yield Measured(paired(top1.get(("gn", "p2"), {}), top1["gn", other]), {"other": other.upper()})


def gn_less_others(frames: Frames) -> Iterator[Measured]:
    """GN less each other norm, at each position where both were run."""
    top1 = top1_by_site(frames)
    for position in POSITIONS:
        for bfn in CLAIMED_NORMS:
            sites = (("gn", position), (bfn, position))
            if bfn != "gn" and all(site in top1 for site in sites):
                values = paired(*(top1[site] for site in sites))
                yield Measured(values, {"bfn": bfn.upper(), "position": position.upper()})
