"""Claims E and I: with few samples behind each statistic, XBN beats BN, and shifts less.

GN has no statistic over a batch: that it does not depend on the norm batch is so by construction, and is not
measured.
"""

from collections.abc import Iterator

from reports.claims.check import Measured, PaperNumber, paired
from reports.frames import Frames
from reports.paper.published import load_paper
from suite.metrics import SHIFT_SIGMA


def xbn_less_bn_top1(frames: Frames) -> Iterator[Measured]:
    """XBN's final top-1 less BN's at the smallest norm batch that both have, by seed."""
    yield from _xbn_less_bn("top1_percent", frames, _paper())


def xbn_less_bn_ap(frames: Frames) -> Iterator[Measured]:
    """XBN's final AP less that of trained BN at the smallest norm batch that both have, by seed."""
    yield from _xbn_less_bn("ap_percent", frames, _paper())


def xbn_less_bn_shift(frames: Frames) -> Iterator[Measured]:
    """XBN's mean scaled ESM σ less BN's over the layers that both have, at that norm batch, by seed."""
    yield from _xbn_less_bn(f"{SHIFT_SIGMA}_common", frames)


def _xbn_less_bn(column: str, frames: Frames, paper: PaperNumber | None = None) -> Iterator[Measured]:
    """Nothing where they share no norm batch."""
    bn, xbn = (frames.completed[frames.completed.norm_family == family] for family in ("bn", "xbn"))
    if shared := set(bn.norm_batch_size) & set(xbn.norm_batch_size):
        smallest = min(shared)
        ours, others = (
            here[here.norm_batch_size == smallest].set_index("seed")[column].to_dict() for here in (xbn, bn)
        )
        yield Measured(paired(ours, others), {"norm_batch": smallest}, paper)


def _paper() -> PaperNumber:
    """The paper's numbers by batch are of detection, on other data than ours."""
    xbn, bn = (load_paper()[f"detection/{name}"] for name in ("xbn-gn", "bn"))
    of = "AP on COCO, Faster R-CNN, 2 images per GPU"
    return PaperNumber(xbn.values[2] - bn.values[2], xbn.tolerance + bn.tolerance, xbn.label, of)
