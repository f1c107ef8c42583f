"""Compares the probe with a bare inference pass over the same resident batches."""

import time
from collections.abc import Callable

import torch
import torchvision

from benchmarks.pairing import Ratio, paired_ratio
from benchmarks.progress import progress_of
from benchmarks.train import Step, trainer_of
from suite.architectures import ARCHITECTURES
from suite.shift import probe
from suite.train.arithmetic import arithmetic
from suite.train.distributed import Ranks
from suite.train.optim import autocast


def bench_probe(step: Step, rounds: int, batches_per_round: int, device: torch.device) -> dict[str, Ratio]:
    """Return the ratio of times: the probe over bare inference, of the network that does such steps.

    The network may also be another one of torchvision's. Raises UserError for an unknown one.
    """
    layout = torch.channels_last if step.channels_last else torch.contiguous_format
    others = torchvision.models.list_models(module=torchvision.models)
    if step.arch in ARCHITECTURES or step.arch not in others:
        model = trainer_of(step, Ranks(0, 0, 1, device)).model.eval()
    else:
        model = torchvision.models.get_model(step.arch).to(device, memory_format=layout).eval()
    shape = (step.images_per_step, 3, step.image_size, step.image_size)
    batches = [torch.randn(shape, device=device).to(memory_format=layout) for _ in range(batches_per_round)]

    def probed() -> None:
        with autocast(device, step.precision):
            probe(model, batches)

    @torch.no_grad()
    def bare() -> None:
        with autocast(device, step.precision):
            for images_NCHW in batches:
                model(images_NCHW)

    name = "probe / inference pass (time)"
    with arithmetic(step.precision, cudnn_benchmark=True):
        return {name: paired_ratio(_time(probed, device), _time(bare, device), rounds, progress_of(name))}


def _time(work: Callable[[], object], device: torch.device) -> Callable[[], float]:
    def seconds() -> float:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    return seconds
