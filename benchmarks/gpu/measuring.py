"""What the stages of `make gpu-check` share: sizes, what they print, and how they time.

A stage prints a line of JSON for each thing that it measured, as soon as it is measured, and for each thing
that it left out and why.
"""

import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Sizes:
    """What is measured: on a GPU, or in a rehearsal. Sizes in images, pixels and channels."""

    device: torch.device
    arch: str
    image_size: int
    batches: tuple[int, ...]
    norm_batches: tuple[int, ...]
    norm_shapes: tuple[tuple[int, int, int], ...]
    """Of the inputs of norms: images, channels, pixels a side."""
    precision: str
    warmup_steps: int
    steps: int


ON_GPU = Sizes(
    torch.device("cuda", 0),
    "resnet50",
    224,
    (128, 256),
    (2, 8, 32),
    ((256, 64, 112), (256, 256, 56), (256, 2048, 7)),
    "bf16",
    6,
    20,
)
REHEARSAL = Sizes(
    torch.device("cpu"), "small_resnet11", 28, (4, 8), (2, 4), ((4, 64, 8), (2, 128, 5)), "bf16", 1, 2
)


def tell(what: str, value: float | str, unit: str = "", *, failed: bool = False) -> None:
    """Print a measurement. One that `failed` makes the whole check fail."""
    print(json.dumps({"what": what, "value": value, "unit": unit, "failed": failed}), flush=True)


def plan(what: list[str]) -> None:
    """Print the names of the rows to come, so that those not reached can be named."""
    print(json.dumps({"planned": what}), flush=True)


def leave_out(why: str) -> None:
    """Print what is not measured."""
    print(json.dumps({"left_out": why}), flush=True)


@contextmanager
def part(name: str) -> Iterator[None]:
    """Leave out what fails inside, and go on."""
    try:
        yield
    except ModuleNotFoundError as error:
        leave_out(f"{name}: the package {error.name} is not there")
    except Exception as error:
        leave_out(f"{name}: {type(error).__name__}: {(str(error) or '-').splitlines()[0]}")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def median_ms(work: Callable[[], object], sizes: Sizes) -> float:
    """Return the median time of a call, after warming up; on a GPU by its events."""
    for _ in range(sizes.warmup_steps):
        work()
    if sizes.device.type != "cuda":
        times_ms = []
        for _ in range(sizes.steps):
            start_s = time.perf_counter()
            work()
            times_ms.append(1e3 * (time.perf_counter() - start_s))
        return statistics.median(times_ms)
    events: list[Any] = [
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(sizes.steps + 1)
    ]
    events[0].record()
    for event in events[1:]:
        work()
        event.record()
    torch.cuda.synchronize()
    return float(statistics.median(a.elapsed_time(b) for a, b in itertools.pairwise(events)))
