"""Batches that are read several times, and must be the same each time: images are compared one by one."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from suite.errors import UserError
from suite.shift.batches import images_of, labels_of, means_of
from suite.shift.passes import check_repeatable

MIN_IMAGES, MIN_BATCHES = 50, 4  # fewer show no difference below some 15 points, and no noise between batches
PURPOSE = "diagnose"


class SameBatches:
    """`batches` with a check on every reading that these are the images of the first one, in their order.

    `what`: "training" or "evaluation", for messages. Raises UserError for an iterator and, while it is read,
    for images that changed. After the first reading: `sizes`, the images of each batch, and `are_lists`,
    whether images come in lists, as detectors take them.
    """

    def __init__(self, batches: Iterable[Any], what: str) -> None:
        check_repeatable(batches, PURPOSE)
        self._batches, self._what = batches, what
        self._first: list[tuple[Tensor, Tensor | None]] = []
        self.are_lists = False

    def __iter__(self) -> Iterator[Any]:
        return self.part(None)

    def part(self, parity: int | None) -> Iterator[Any]:
        """Yield the even (0), the odd (1) or all batches (None), without empty ones."""
        is_first, number = not self._first, 0
        for batch in self._batches:
            images = images_of(batch, PURPOSE)
            if len(images) == 0:
                continue
            self.are_lists = isinstance(images, list)
            means_N, labels_N = means_of(images), labels_of(batch)
            labels_N = None if labels_N is None else labels_N.cpu()
            if is_first:
                self._first.append((means_N, labels_N))
            elif number >= len(self._first) or not _are_equal(self._first[number], (means_N, labels_N)):
                raise self._changed()
            if parity is None or number % 2 == parity:
                yield batch
            number += 1
        if number != len(self._first):
            raise self._changed()

    @property
    def sizes(self) -> list[int]:
        """The number of images of each batch."""
        return [len(means_N) for means_N, _ in self._first]

    @property
    def is_even_N(self) -> Tensor:
        """Whether each image is in an even batch."""
        parts = [torch.full((size,), number % 2 == 0) for number, size in enumerate(self.sizes)]
        return torch.cat(parts)

    @property
    def guess_percent(self) -> float:
        """The accuracy of guessing the most frequent label; 0 without labels."""
        labels = [label for _, labels_N in self._first if labels_N is not None for label in labels_N.tolist()]
        return 100 * max(Counter(labels).values()) / len(labels) if labels else 0.0

    def check(self) -> None:
        """Raise UserError for too few images or batches, and batches of one class. Read the batches first."""
        images, batches = sum(self.sizes), len(self.sizes)
        if images < MIN_IMAGES or batches < MIN_BATCHES:
            raise UserError(
                f"{PURPOSE}: there are {images} {self._what} images in {batches} batches; expected "
                f"{MIN_IMAGES} or more, in {MIN_BATCHES} or more batches: fewer show nothing"
            )
        labels = [labels_N for _, labels_N in self._first if labels_N is not None]
        classes = _num_different(torch.cat(labels)) if labels else 1
        expected = math.fsum(classes * (1 - (1 - 1 / classes) ** len(labels_N)) for labels_N in labels)
        found = sum(_num_different(labels_N) for labels_N in labels)
        if found < 0.5 * expected:
            raise UserError(
                f"{PURPOSE}: a {self._what} batch has images of {found / len(labels):.1f} of the {classes} "
                "classes on average, as if sorted by class, and its statistics are those of its classes: "
                "shuffle the images once, in a fixed order"
            )

    def _changed(self) -> UserError:
        return UserError(
            f"{PURPOSE}: the {self._what} batches are other ones when they are read again, as from a loader "
            "that shuffles or augments at random; give a list of batches, such as "
            "list(itertools.islice(loader, 32)), or a loader without either"
        )


def _num_different(labels_N: Tensor) -> int:
    return len(set(labels_N.tolist()))


def _are_equal(first: tuple[Tensor, Tensor | None], again: tuple[Tensor, Tensor | None]) -> bool:
    (means_N, labels_N), (again_N, labels_again_N) = first, again
    if (labels_N is None) != (labels_again_N is None) or means_N.shape != again_N.shape:
        return False
    is_same = labels_N is None or labels_again_N is None or torch.equal(labels_N, labels_again_N)
    return is_same and torch.allclose(means_N, again_N, rtol=1e-4, atol=1e-5, equal_nan=True)
