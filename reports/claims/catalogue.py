"""The claims by their letters: what each says, and the rules that decide it."""

from collections.abc import Sequence
from dataclasses import dataclass

from reports.claims import depth, inference, noise_loss, positions, small_batches
from reports.claims.check import Rule


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    `rules`: in blocks, see `check.evaluate`. `remark`: what one must know of the rules before believing the
    verdict.
    """

    letter: str
    says: str
    rules: Sequence[Sequence[Rule]]
    remark: str = ""


CLAIMS = {
    claim.letter: claim
    for claim in (
        Claim("A", "BN's estimates are wrong on the very images that it trains on", inference.RULES),
        Claim(
            "B",
            "the shift accumulates over depth, the more the smaller the training set",
            depth.ACCUMULATION,
        ),
        Claim(
            "C",
            "GN in every second layer blocks the accumulation",
            depth.BLOCKING,
            "At the end of training, from above: a shift that falls with depth does not accumulate either.",
        ),
        Claim(
            "D",
            "XBN is more robust to noise on the estimates than BN, and more so with IN than with GN",
            noise_loss.RULES,
            "The paper gives no formula for its noise: ours is a reading of it.",
        ),
        Claim(
            "E",
            "with few samples behind a statistic, XBN beats BN and shifts less",
            small_batches.RULES,
            "GN has no statistic over a batch: it does not depend on the norm batch by construction.",
        ),
        Claim(
            "F",
            "P2 is the best position of GN, and GN the best batch-free norm at its worst position",
            positions.RULES,
            "The paper gives no numbers by position: only the order is judged.",
        ),
    )
}
