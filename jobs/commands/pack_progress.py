"""Shows how far packing is: a bar on a terminal, and a line at the end."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SHOWN_EVERY_S = 0.2


@contextmanager
def shown_packing(num_images: int, done: str = "packed") -> Iterator[Callable[[int, int], None]]:
    """Yield a function that threads call with the images and bytes that are done, and show their sum."""
    console = Console(stderr=True, highlight=False)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("images"), TextColumn("{task.description}"))
    lock, sums = threading.Lock(), [0, 0]
    began_s = shown_s = time.monotonic()
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not sys.stderr.isatty()
    ) as bars:
        task = bars.add_task("", total=num_images)

        def on_progress(images: int, num_bytes: int) -> None:
            nonlocal shown_s
            with lock:
                sums[0] += images
                sums[1] += num_bytes
                now_s = time.monotonic()
                if now_s - shown_s < SHOWN_EVERY_S:
                    return
                shown_s = now_s
            rate = f"{sums[1] / 1e6 / (now_s - began_s):.0f} MB/s"
            bars.update(task, completed=sums[0], description=rate)

        yield on_progress
    duration_s = max(time.monotonic() - began_s, 1e-3)
    images, num_bytes = sums
    console.print(
        f"{done} {images:,} images, {num_bytes / 1e9:.2f} GB, in {duration_s:.0f} s "
        f"({images / duration_s:,.0f} images/s, {num_bytes / 1e6 / duration_s:,.0f} MB/s)",
        soft_wrap=True,
    )
