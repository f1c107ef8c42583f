"""Which images every rank sees at every step: a pure function, so that resuming needs no state. Numpy only.

Position p of epoch e is one image with one random crop, decided by (seed, e, p) alone. Optimizer step s of
an epoch covers the positions [sG, (s + 1)G), and micro-batch m of rank r of W, with b images, is the block
at sG + (mW + r)b. Resuming is starting at a later step, and neither W nor b changes what one step sees.

Only raw words of the counter-based generator Philox are used: numpy guarantees those for all versions, but
not its distributions.
"""

from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from suite.data.crops import BLOCKS_PER_IMAGE, WORDS_PER_IMAGE, CropDraws, crop_draws
from suite.data.index import ImageFiles, ImageIndex, Int64s, balanced_subset
from suite.data.orders import EpochOrders
from suite.errors import UserError
from suite.experiment import Run
from suite.specs.loader_table import LOADERS

# Separate streams of one key.
ORDER, CROPS, SUBSET, CLIENTS = range(4)


@dataclass(frozen=True)
class Samples:
    """A planned batch: images of the index, and their random crops (None: central crops)."""

    images_B: Int64s
    crops: CropDraws | None

    def __len__(self) -> int:
        return len(self.images_B)

    def __getitem__(self, part: slice) -> "Samples":
        return Samples(self.images_B[part], None if self.crops is None else self.crops[part])


def random_words(seed: int, epoch: int, stream: int, count: int, first_block: int = 0) -> NDArray[np.uint64]:
    """Return `count` words of a stream, from block `first_block` (of four words) on."""
    counter = np.array([first_block, 0, 0, stream], dtype=np.uint64)
    return np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64), counter=counter).random_raw(count)


class TrainPlan:
    """The order and the crops of all epochs of a run, over all ranks.

    Raises UserError if the index has fewer images than one global batch, or than `train_images`.
    """

    def __init__(self, index: ImageIndex, run: Run) -> None:
        if run.data.train_images is not None:
            keys_N = random_words(run.seed, 0, SUBSET, len(index))
            index = balanced_subset(index, run.data.train_images, keys_N)
        self.index = index
        self.data = run.data
        self.seed = run.seed
        self.global_batch_size = run.batch.global_batch_size
        self.steps_per_epoch = steps_of(index, self.global_batch_size)
        self._orders_of_epochs = EpochOrders(self._order, len(index))

    def order(self, epoch: int) -> Int64s:
        """Return the image at each position of an epoch."""
        return self._orders_of_epochs.of(epoch)

    def _order(self, epoch: int) -> Int64s:
        return np.argsort(random_words(self.seed, epoch, ORDER, len(self.index)), kind="stable")

    def images(self, step: int, first: int, count: int) -> Int64s:
        """Return `count` images of optimizer step `step` (over all epochs), from its image `first` on."""
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        first += step_of_epoch * self.global_batch_size
        return self.order(epoch)[first : first + count]

    def samples(self, step: int, first: int, count: int) -> Samples:
        """Return `count` samples of optimizer step `step` (over all epochs), from its sample `first` on."""
        assert first + count <= self.global_batch_size
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        position = step_of_epoch * self.global_batch_size + first
        images_B = self.images(step, first, count)
        if not LOADERS[self.data.loader].crops:  # for 60,000 small images the draws alone would take a while
            return Samples(images_B, None)
        block = position * BLOCKS_PER_IMAGE
        words = random_words(self.seed, epoch, CROPS, count * WORDS_PER_IMAGE, first_block=block)
        return Samples(images_B, crop_draws(words.reshape(count, WORDS_PER_IMAGE), self.data))


def steps_of(index: ImageFiles, global_batch_size: int) -> int:
    """Return the steps of an epoch, whose rest is dropped. Raises UserError if it has less than one."""
    if steps := len(index) // global_batch_size:
        return steps
    raise UserError(
        f"global_batch_size {global_batch_size} exceeds the {len(index)} training images "
        f"of {index.folder}: {len(index)} // {global_batch_size} = 0 steps an epoch"
    )


IndexT_co = TypeVar("IndexT_co", bound=ImageFiles, covariant=True)


class Plan(Protocol[IndexT_co]):
    """The samples of all epochs of a run, over all ranks."""

    global_batch_size: int

    @property
    def index(self) -> IndexT_co: ...

    def samples(self, step: int, first: int, count: int) -> Samples: ...


@dataclass(frozen=True)
class TrainShare(Generic[IndexT_co]):
    """One rank's endless micro-batches from optimizer step `start_step` on: by step, then by micro-batch."""

    random_crops: ClassVar[bool] = True
    num_batches: ClassVar[None] = None
    plan: Plan[IndexT_co]
    images_per_batch: int
    start_step: int = 0
    rank: int = 0
    world_size: int = 1

    @property
    def index(self) -> IndexT_co:
        return self.plan.index

    def batch(self, number: int) -> Samples:
        per_pass = self.world_size * self.images_per_batch
        passes, rest = divmod(self.plan.global_batch_size, per_pass)
        assert not rest, "BatchSpec.accumulation_steps refuses this"
        step, micro = divmod(number, passes)
        first = micro * per_pass + self.rank * self.images_per_batch
        return self.plan.samples(self.start_step + step, first, self.images_per_batch)


@dataclass(frozen=True)
class EvalShare(Generic[IndexT_co]):
    """One rank's part of a pass over the index: over all ranks, each image exactly once."""

    random_crops: ClassVar[bool] = False
    index: IndexT_co
    images_per_batch: int
    rank: int = 0
    world_size: int = 1

    @property
    def _bounds(self) -> tuple[int, int]:
        first, end = (len(self.index) * rank // self.world_size for rank in (self.rank, self.rank + 1))
        return first, end

    @property
    def num_batches(self) -> int:
        first, end = self._bounds
        return -(-(end - first) // self.images_per_batch)

    def batch(self, number: int) -> Samples:
        first, end = self._bounds
        first += number * self.images_per_batch
        return Samples(np.arange(first, min(first + self.images_per_batch, end)), None)


Share = TrainShare[IndexT_co] | EvalShare[IndexT_co]
"""The batches of one rank, in order, of at most `images_per_batch` images; `num_batches` None: endless."""
