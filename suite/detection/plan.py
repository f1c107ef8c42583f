"""Which images with boxes every rank sees at every step: a pure function of seed and step. Numpy only.

As for classification (`suite.data.plan`), with one difference: the `batch_size_per_gpu` images of a forward
pass are all wide or all tall, since a batch is padded to its largest height and width.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from suite.data.crops import CropDraws
from suite.data.index import Int64s
from suite.data.orders import EpochOrders
from suite.data.plan import CROPS, ORDER, SUBSET, Samples, random_words, steps_of
from suite.detection.coco import CocoIndex
from suite.errors import UserError

BLOCK = 4
"""Philox makes four words at a time; an image's mirror takes the first of its four."""


@dataclass(frozen=True)
class Batching:
    """What of a run decides the order: sizes in images."""

    seed: int
    global_batch_size: int
    per_gpu: int
    num_images: int | None = None
    flip: bool = True


class DetectionPlan:
    """The order and the mirrors of all epochs of a run, over all ranks.

    Of images with boxes, `num_images`, chosen by the seed; None: all. Raises UserError if there are fewer,
    or fewer than one global batch.
    """

    def __init__(self, index: CocoIndex, batching: Batching) -> None:
        index, wanted = index.with_boxes(), batching.num_images
        if wanted is not None:
            if wanted > len(index):
                has = f"{index.folder} has only {len(index)} images with boxes"
                raise UserError(f"data.train_images is {wanted}, but {has}")
            keys_N = random_words(batching.seed, 0, SUBSET, len(index))
            index = index.take(np.sort(np.argsort(keys_N, kind="stable")[:wanted]))
        self.index = index
        self.global_batch_size = batching.global_batch_size
        self.steps_per_epoch = steps_of(index, batching.global_batch_size)
        self._batching = batching
        self._orders_of_epochs = EpochOrders(self._order, len(index))

    def order(self, epoch: int) -> Int64s:
        """Return the image at each position of an epoch."""
        return self._orders_of_epochs.of(epoch)

    def _order(self, epoch: int) -> Int64s:
        words_N = random_words(self._batching.seed, epoch, ORDER, len(self.index))
        is_wide_N = self.index.widths_N >= self.index.heights_N
        return grouped(words_N, is_wide_N, self._batching.per_gpu)

    def samples(self, step: int, first: int, count: int) -> Samples:
        """Return `count` samples of optimizer step `step` (over all epochs), from its sample `first` on."""
        assert first + count <= self.global_batch_size
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        position = step_of_epoch * self.global_batch_size + first
        words = random_words(self._batching.seed, epoch, CROPS, count * BLOCK, first_block=position)
        is_mirrored_B = (words[::BLOCK] < 2**63) & self._batching.flip
        draws = CropDraws(np.empty((count, 0, 0)), is_mirrored_B.astype(np.int32))
        return Samples(self.order(epoch)[position : position + count], draws)


def grouped(keys_N: NDArray[np.uint64], is_wide_N: NDArray[np.bool_], group_size: int) -> Int64s:
    """Return the images in an order by keys in which each `group_size` of them are all wide or all tall.

    Groups come in the order of their first images. The images of either kind that fill no group
    come last, together.
    """
    order_N = np.argsort(keys_N, kind="stable")
    whole, left = list[Int64s](), list[Int64s]()
    for is_kind_N in (is_wide_N[order_N], ~is_wide_N[order_N]):
        places = np.flatnonzero(is_kind_N)
        num_whole = len(places) // group_size * group_size
        whole.append(places[:num_whole].reshape(-1, group_size))
        left.append(places[num_whole:])
    groups = np.concatenate(whole)
    groups = groups[np.argsort(groups[:, 0], kind="stable")]
    grouped_N: Int64s = order_N[np.concatenate([groups.ravel(), *left])]
    return grouped_N
