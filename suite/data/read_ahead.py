"""Reads the images of a pack for DALI, which reads files itself, but no parts of files."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from suite.data.index import ImageIndex, Int64s
from suite.data.packed import Bytes

AHEAD = 1  # batch, beside those that the pipeline prefetches


class PackReader:
    """Reads an index's images in `num_threads` threads, a batch ahead of what the pipeline takes."""

    def __init__(self, index: ImageIndex, num_threads: int) -> None:
        self._index, self._num_threads = index, num_threads
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="read")

    def begin(self, images_B: Int64s) -> Callable[[], list[Bytes]]:
        """Begin to read a batch; the returned function waits for it. That raises UserError as `read` does."""
        images, every = images_B.tolist(), self._num_threads
        # One task per thread: one per image would take longer.
        parts = [self._threads.submit(self._read, images[first::every]) for first in range(every)]

        def result() -> list[Bytes]:
            contents = {image: one for part in parts for image, one in part.result()}
            return [contents[image] for image in images]

        return result

    def _read(self, images: list[int]) -> list[tuple[int, Bytes]]:
        return [(image, self._index.read(image)) for image in images]

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)


def when_read(inputs: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Yield inputs, whose first part is what `begin` returns, when that is read, with the next one begun."""
    begun = deque[tuple[Any, ...]]()
    for one in inputs:
        begun.append(one)
        if len(begun) > AHEAD:
            wait, *others = begun.popleft()
            yield wait(), *others
    for wait, *others in begun:
        yield wait(), *others
