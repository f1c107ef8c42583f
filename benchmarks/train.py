"""Compares the training step with a bare loop over the same tensors; measures the cost of XBN and TID."""

import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from benchmarks.pairing import Ratio, paired_ratio
from suite.config import expand
from suite.data import Batch, train_loader
from suite.experiment import Run
from suite.models import build_model
from suite.signals import StopFlag
from suite.train.distributed import Ranks
from suite.train.loop import Trainer


def bench_train(
    arch: str, image_size: int, images_per_step: int, rounds: int, steps_per_round: int, device: torch.device
) -> dict[str, Ratio]:
    """Return ratios of images/s: step over bare loop, XBN over BN, with TID over without.

    Every side has its own network from the same seed and reads the same resident tensors. TID costs far less
    than steps differ by, so its own work is also timed alone, as a share of a step's time.
    """
    bn, xbn, tid = (
        _synthetic_run(arch, image_size, images_per_step, kind, with_tid)
        for kind, with_tid in (("bn", False), ("xbn", False), ("bn", True))
    )
    images = images_per_step * steps_per_round
    sides = {
        "suite": _suite_steps(bn, device, steps_per_round),
        "bare": _bare_steps(bn, device, steps_per_round),
        "xbn": _suite_steps(xbn, device, steps_per_round),
        "tid": _suite_steps(tid, device, steps_per_round),
    }
    rates = {name: _rate(side, images, device) for name, side in sides.items()}
    return {
        "training step / bare loop": paired_ratio(rates["suite"], rates["bare"], rounds),
        "XBN step / BN step": paired_ratio(rates["xbn"], rates["suite"], rounds),
        "step with TID / without": paired_ratio(rates["tid"], rates["suite"], rounds),
        "TID alone / step (time)": _tid_share(tid, device, rates["suite"], images_per_step, rounds),
    }


def _tid_share(
    run: Run, device: torch.device, images_per_s: Callable[[], float], images_per_step: int, rounds: int
) -> Ratio:
    """Return TID's own time over a step's."""
    tid = Trainer(run, Ranks(0, 0, 1, device), None, StopFlag()).tid
    assert tid is not None
    updates = 50

    def update() -> None:
        for _ in range(updates):
            tid.update()

    updates_per_s = _rate(update, updates, device)
    return paired_ratio(lambda: 1 / updates_per_s(), lambda: images_per_step / images_per_s(), rounds)


def _synthetic_run(arch: str, image_size: int, images_per_step: int, kind: str, with_tid: bool) -> Run:
    content = {
        "model": {"arch": arch, "norm": {"kind": kind}},
        "data": {"name": "synthetic", "image_size": image_size},
        "batch": {"global_batch_size": images_per_step},
        "recipe": {"schedule": "constant", "lr": 1e-3},
        "measure": {"tid": with_tid},
    }
    return expand(content, "bench").runs[0]


def _rate(steps: Callable[[], None], images: int, device: torch.device) -> Callable[[], float]:
    def images_per_s() -> float:
        start = time.perf_counter()
        steps()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return images / (time.perf_counter() - start)

    return images_per_s


def _batches(run: Run, device: torch.device) -> Iterator[Batch]:
    return iter(train_loader(run, start_step=0, rank=0, world_size=1, device=device))


def _suite_steps(run: Run, device: torch.device, count: int) -> Callable[[], None]:
    trainer = Trainer(run, Ranks(0, 0, 1, device), None, StopFlag())
    forward = trainer.forward_module()
    batches = _batches(run, device)

    def steps() -> None:
        for _ in range(count):
            trainer.agree(trainer.advance(forward, batches))

    return steps


def _bare_steps(run: Run, device: torch.device, count: int) -> Callable[[], None]:
    torch.manual_seed(run.seed)
    model = build_model(run.model).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    batches = _batches(run, device)

    def steps() -> None:
        for _ in range(count):
            batch = next(batches)
            loss = F.cross_entropy(model(batch.images_NCHW), batch.labels_N)
            torch.autograd.backward(loss)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return steps
