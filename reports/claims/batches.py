"""Claim E: with few samples behind each statistic, XBN beats BN, and shifts less.

At the smallest norm batch that both were run at, paired by seed:

- XBN's final top-1 less BN's is above 0;
- XBN's ESM σ less BN's, the mean over the layers that both have, is below 0.

GN has no statistic over a batch: that it does not depend on the norm batch is so by construction, and not
measured.
"""

from collections.abc import Iterator

from reports.claims.check import Check, PaperNumber, paired
from reports.frames import Frames
from reports.paper.numbers import load_paper


def checks(frames: Frames) -> Iterator[Check]:
    done = frames.completed
    shared = set(done[done.norm_rank == 0].norm_batch_size) & set(done[done.norm_rank == 1].norm_batch_size)
    if not shared:
        return
    smallest = min(shared)
    here = done[done.norm_batch_size == smallest]
    bn, xbn = (here[here.norm_rank == rank].set_index("seed") for rank in (0, 1))
    at = f"XBN less BN, norm batch {smallest}"
    top1, shift = (
        paired(xbn[name].to_dict(), bn[name].to_dict()) for name in ("top1_percent", "esm_sigma_common")
    )
    yield Check(f"top-1, {at}", "points", top1, "above", 0, 2, _paper())
    yield Check(f"mean ESM σ, {at}", "", shift, "below", 0, 3)


def _paper() -> PaperNumber:
    """Of another task: the paper's numbers by batch are of detection."""
    xbn, bn = (load_paper()[f"detection/{name}"] for name in ("xbn-gn", "bn"))
    of = "AP on COCO, Faster R-CNN, 2 images per GPU"
    return PaperNumber(xbn.values[2] - bn.values[2], xbn.tolerance + bn.tolerance, xbn.label, of)
