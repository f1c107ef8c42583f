"""Accuracy over a data set, each image counted exactly once whatever the ranks and batches."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite.data import Batch
from suite.errors import UserError
from suite.shift.layers import preserved
from suite.train.distributed import Ranks
from suite.train.optim import autocast


@dataclass(frozen=True)
class Evaluation:
    """Over `images_evaluated` images of all ranks: mean cross-entropy (nat), top-1 and top-5 (%)."""

    loss: float
    top1_percent: float
    top5_percent: float
    images_evaluated: int


class UntilStopped:
    """A pass over batches that ends early on a stop request, but not before the first batch.

    Each rank ends on its own; the ranks agree afterwards, so that none waits for another during the pass.
    """

    def __init__(self, batches: Iterable[Any], is_asked: Callable[[], bool]) -> None:
        self._batches, self._is_asked = batches, is_asked

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            yield batch
            if self._is_asked():
                return


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[Batch], ranks: Ranks, precision: str = "fp32") -> Evaluation:
    """Evaluate `model` in inference mode. Each rank gives its own share, which may be empty.

    The modules' modes are restored. Raises UserError when no rank has an image.
    """
    sums = torch.zeros(4, dtype=torch.float64, device=ranks.device)
    with preserved(model):
        model.eval()
        for batch in batches:
            with autocast(ranks.device, precision):
                logits_NK = model(batch.images_NCHW)
            sums += batch_sums(logits_NK.float(), batch.labels_N)
    loss, top1, top5, images = ranks.sum(sums).tolist()
    if images == 0:
        raise UserError("evaluation: the validation set has no readable image")
    return Evaluation(loss / images, 100 * top1 / images, 100 * top5 / images, int(images))


def batch_sums(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Return (4,) float64: the sum of the cross-entropy (nat), the top-1 hits, the top-5 hits, and N."""
    loss = F.cross_entropy(logits_NK, labels_N, reduction="sum")
    guesses_N5 = logits_NK.topk(min(5, logits_NK.shape[1]), dim=1).indices
    hits_N5 = guesses_N5 == labels_N[:, None]
    parts = (loss, hits_N5[:, 0].sum(), hits_N5.sum(), torch.full_like(loss, len(labels_N)))
    return torch.stack([part.double() for part in parts])
