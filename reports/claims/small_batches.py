"""Claim E: with few samples behind each statistic, XBN beats BN, and shifts less.

At the smallest norm batch that both were run at, paired by seed:

- XBN's final top-1 less BN's is above 0;
- XBN's ESM σ less BN's, the mean over the layers that both have, is below 0.

GN has no statistic over a batch: that it does not depend on the norm batch is so by construction, and not
measured.
"""

from collections.abc import Iterator
from functools import partial

from reports.claims.check import Measured, PaperNumber, Rule, paired
from reports.frames import Frames
from reports.paper.published import load_paper


def _xbn_less_bn(column: str, frames: Frames) -> Iterator[Measured]:
    """A column of XBN's runs less BN's at the smallest norm batch of both; nothing where they share none."""
    bn, xbn = (frames.completed[frames.completed.norm_family == family] for family in ("bn", "xbn"))
    if shared := set(bn.norm_batch_size) & set(xbn.norm_batch_size):
        smallest = min(shared)
        ours, others = (
            here[here.norm_batch_size == smallest].set_index("seed")[column].to_dict() for here in (xbn, bn)
        )
        paper = _paper() if column == "top1_percent" else None
        yield Measured(paired(ours, others), {"norm_batch": smallest}, paper=paper)


def _paper() -> PaperNumber:
    """Of another task: the paper's numbers by batch are of detection."""
    xbn, bn = (load_paper()[f"detection/{name}"] for name in ("xbn-gn", "bn"))
    of = "AP on COCO, Faster R-CNN, 2 images per GPU"
    return PaperNumber(xbn.values[2] - bn.values[2], xbn.tolerance + bn.tolerance, xbn.label, of)


_AT = "XBN less BN, norm batch {norm_batch}"
RULES = (
    (
        Rule(f"top-1, {_AT}", "points", 2, partial(_xbn_less_bn, "top1_percent"), "above"),
        Rule(f"mean ESM σ, {_AT}", "", 3, partial(_xbn_less_bn, "esm_sigma_common"), "below"),
    ),
)
