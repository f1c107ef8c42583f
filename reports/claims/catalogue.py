"""The claims by their letters: what each says, and who judges and draws it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from reports.claims import batches, depth, inference, noise, positions
from reports.claims.check import Check
from reports.frames import Frames


@dataclass(frozen=True)
class Claim:
    """A claim of the paper. `remark`: what one must know of its rule before believing the verdict."""

    letter: str
    says: str
    checks: Callable[[Frames], Iterable[Check]]
    remark: str = ""


CLAIMS = {
    claim.letter: claim
    for claim in (
        Claim("A", "BN's estimates are wrong on the very images that it trains on", inference.checks),
        Claim(
            "B",
            "the shift accumulates over depth, the more the smaller the training set",
            depth.accumulation_checks,
        ),
        Claim(
            "C",
            "GN in every second layer blocks the accumulation",
            depth.blocking_checks,
            "At the end of training, from above: a shift that falls with depth does not accumulate either.",
        ),
        Claim(
            "D",
            "XBN is more robust to noise on the estimates than BN, and more so with IN than with GN",
            noise.checks,
            "The paper gives no formula for its noise: ours is a reading of it.",
        ),
        Claim(
            "E",
            "with few samples behind a statistic, XBN beats BN and shifts less",
            batches.checks,
            "GN has no statistic over a batch: it does not depend on the norm batch by construction.",
        ),
        Claim(
            "F",
            "P2 is the best position of GN, and GN the best batch-free norm at its worst position",
            positions.checks,
            "The paper gives no numbers by position: only the order is judged.",
        ),
    )
}
