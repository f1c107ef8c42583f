"""Compares the probe with a bare inference pass over the same resident batches."""

import time
from collections.abc import Callable

import torch

from benchmarks.pairing import Ratio, paired_ratio
from benchmarks.progress import telling
from suite.experiment import ModelSpec
from suite.models import build_model
from suite.shift import probe


def bench_probe(
    arch: str,
    image_size: int,
    images_per_batch: int,
    rounds: int,
    batches_per_round: int,
    device: torch.device,
) -> dict[str, Ratio]:
    """Return the ratio of times: the probe over bare inference."""
    torch.manual_seed(0)
    model = build_model(ModelSpec(arch=arch, num_classes=1000)).to(device).eval()
    shape = (images_per_batch, 3, image_size, image_size)
    batches = [torch.randn(shape, device=device) for _ in range(batches_per_round)]

    @torch.no_grad()
    def bare() -> None:
        for images_NCHW in batches:
            model(images_NCHW)

    times = [_time(lambda: probe(model, batches), device), _time(bare, device)]
    name = "probe / inference pass (time)"
    return {name: paired_ratio(times[0], times[1], rounds, telling(name))}


def _time(work: Callable[[], object], device: torch.device) -> Callable[[], float]:
    def seconds() -> float:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    return seconds
