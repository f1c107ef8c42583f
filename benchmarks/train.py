"""Compares the training step with a bare loop over the same tensors; measures what norms and TID cost it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from benchmarks.pairing import Ratio, paired_ratio
from benchmarks.progress import OnProgress, progress_of
from suite.config import expand
from suite.data import Batch, train_loader
from suite.errors import UserError
from suite.experiment import Run
from suite.models import build_model, set_norm_batch_size
from suite.signals import StopFlag
from suite.specs.recipe import PRECISIONS
from suite.train.arithmetic import arithmetic
from suite.train.data_parallel import data_parallel
from suite.train.distributed import Ranks
from suite.train.graphs import WARMUP_STEPS
from suite.train.loop import Trainer
from suite.train.optim import autocast

TID_UPDATES = 48  # of three times as many passes as are computed together


@dataclass(frozen=True)
class Step:
    """A training step to measure, which `ranks` ranks share. Sizes in images and pixels.

    `norm_batch_size`: None for a rank's whole batch.
    """

    arch: str = "resnet18"
    image_size: int = 64
    images_per_step: int = 32
    precision: str = "fp32"
    channels_last: bool = False
    compile: bool = False
    norm: str = "bn"
    norm_batch_size: int | None = None
    kernels: str = "native"
    cuda_graphs: bool = False
    ranks: int = 1
    tid: bool = False

    def run(self) -> Run:
        """Return the run of such steps. Raises UserError for a combination that no run could have."""
        per_gpu, rest = divmod(self.images_per_step, self.ranks)
        if rest:
            raise UserError(f"{self.ranks} ranks do not divide {self.images_per_step} images per step")
        batch: dict[str, Any] = {"global_batch_size": self.images_per_step, "batch_size_per_gpu": per_gpu}
        if self.norm_batch_size is not None:
            batch["norm_batch_size"] = self.norm_batch_size
        recipe = {"schedule": "constant", "lr": 1e-3, "precision": self.precision}
        content = {
            "model": {"arch": self.arch, "norm": {"kind": self.norm}},
            "data": {"name": "synthetic", "image_size": self.image_size},
            "batch": batch,
            "recipe": {**recipe, "channels_last": self.channels_last, "compile": self.compile},
            "measure": {"tid": self.tid},
            "system": {"kernels": self.kernels, "cuda_graphs": self.cuda_graphs},
        }
        return expand(content, "bench").runs[0]


@dataclass(frozen=True)
class Rival:
    """A bare loop that others train with, on a GPU; its precision is the step's.

    `channels_last`, `fused`, `nesterov`: None is as the step. On a CPU all are as the step, which is what
    torch does by itself. `has_fast_exchange`: several ranks exchange gradients as ours do,
    and not by DDP's defaults.
    """

    meaning: str
    channels_last: bool | None = None
    fused: bool = False
    nesterov: bool = False
    has_fast_exchange: bool = False


RIVALS = {
    "tuned": Rival(
        "channels-last, cuDNN's benchmark, fused SGD, DDP as ours",
        channels_last=True,
        fused=True,
        has_fast_exchange=True,
    ),
    "torchvision": Rival("as torchvision's reference script: NCHW, cuDNN's benchmark", channels_last=False),
    "timm": Rival("as timm's script: NCHW, cuDNN's benchmark, Nesterov", channels_last=False, nesterov=True),
}


def bench_train(
    step: Step,
    rounds: int,
    steps_per_round: int,
    ranks: Ranks,
    *,
    rival: str = "tuned",
    norm_batch_sizes: tuple[int, ...] = (),
) -> dict[str, Ratio]:
    """Return ratios of images/s: step over bare loop, XBN over BN, with TID over without; ghost BN over BN.

    Every side has its own network from the same seed and reads the same resident tensors. TID costs far less
    than steps differ by, so its own work is also timed alone, as a share of a step's time. Ghost BN's ratios
    are of times, one for each of `norm_batch_sizes`.

    All ranks call this together, and the ratios of the first one count. Among several it alone measures TID,
    whose own work is then not timed.
    """
    others = {"XBN step / BN step": replace(step, norm="xbn")} if step.norm == "bn" else {}
    tid = tid_time_s(step, ranks)
    if ranks.agree(int(tid is not None)):
        others["step with TID / without"] = replace(step, tid=True)
    if ranks.world_size > 1:
        tid = None
    ghosts = {
        f"norm batch {n} / {step.norm} (time)": replace(step, norm_batch_size=n) for n in norm_batch_sizes
    }
    count = 1 + len(others) + len(ghosts) + (tid is not None)
    images, device = step.images_per_step * steps_per_round, ranks.device

    def progress(name: str, number: int = 1) -> OnProgress | None:
        return progress_of(name, number=number, of=count) if ranks.is_first else None

    with arithmetic(step.precision, cudnn_benchmark=True):
        suite = _rate(suite_steps(step, ranks, steps_per_round), images, device)
        bare = _rate(bare_steps(step, RIVALS[rival], ranks, steps_per_round), images, device)
        name = "training step / bare loop"
        found = {name: paired_ratio(suite, bare, rounds, progress(name))}
        for name, other in others.items():
            rate = _rate(suite_steps(other, ranks, steps_per_round), images, device)
            found[name] = paired_ratio(rate, suite, rounds, progress(name, len(found) + 1))
        for name, other in ghosts.items():
            rate = _rate(suite_steps(other, ranks, steps_per_round), images, device)
            on_progress = progress(name, len(found) + 1)
            found[name] = paired_ratio(_inverse(rate), _inverse(suite), rounds, on_progress)
        if tid is not None:
            name = "TID alone / step (time)"
            on_progress = progress(name, count)
            found[name] = paired_ratio(tid, lambda: step.images_per_step / suite(), rounds, on_progress)
    return found


def tid_time_s(step: Step, ranks: Ranks) -> Callable[[], float] | None:
    """Return a measurement of TID's own time in a step, in seconds; None where this rank measures none."""
    meter = trainer_of(replace(step, tid=True), ranks).tid
    if meter is None:
        return None

    def updates() -> None:
        for _ in range(TID_UPDATES):
            meter.update()

    return _inverse(_rate(updates, TID_UPDATES, ranks.device))


def trainer_of(step: Step, ranks: Ranks) -> Trainer:
    """Return the trainer of a run of such steps, which writes no record."""
    return Trainer(step.run(), ranks, None, StopFlag())


def suite_steps(step: Step, ranks: Ranks, count: int) -> Callable[[], None]:
    """Return a function that does `count` steps as a run does them."""
    trainer = trainer_of(step, ranks)
    forward = trainer.forward_module()
    batches = _batches(trainer.run, ranks)

    def steps(count: int = count) -> None:
        for _ in range(count):
            trainer.agree(trainer.advance(forward, batches))

    if step.cuda_graphs:
        steps(WARMUP_STEPS + 1)  # the last one is recorded
    return steps


def bare_steps(step: Step, rival: Rival, ranks: Ranks, count: int) -> Callable[[], None]:
    """Return a function that does `count` steps of the plainest loop with a rival's settings."""
    run, device = step.run(), ranks.device
    on_gpu = device.type == "cuda"
    torch.manual_seed(run.seed)
    is_nhwc = step.channels_last if rival.channels_last is None or not on_gpu else rival.channels_last
    layout = torch.channels_last if is_nhwc else torch.contiguous_format
    model = build_model(run.model).to(device, memory_format=layout).train()  # type: ignore[call-overload]
    model = set_norm_batch_size(model, run.batch.norm, run.batch.per_gpu, device)
    forward: Any = model
    if ranks.world_size > 1:
        if rival.has_fast_exchange:
            forward = data_parallel(model, device, is_static=not step.compile)
        else:
            forward = DistributedDataParallel(model, device_ids=[device] if on_gpu else None)
    if step.compile:
        forward = torch.compile(forward)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=1e-3,
        momentum=0.9,
        weight_decay=1e-4,
        nesterov=rival.nesterov and on_gpu,
        fused=(rival.fused and on_gpu) or None,
    )
    scaler = torch.amp.GradScaler(device.type, enabled=PRECISIONS[step.precision].is_scaled)
    batches = _batches(run, ranks)

    def steps() -> None:
        for _ in range(count):
            batch = next(batches)
            with autocast(device, step.precision):
                logits_NK = forward(batch.images_NCHW.contiguous(memory_format=layout))
            loss = F.cross_entropy(logits_NK.float(), batch.labels_N)
            torch.autograd.backward(scaler.scale(loss))
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)

    return steps


def _rate(steps: Callable[[], None], images: int, device: torch.device) -> Callable[[], float]:
    def images_per_s() -> float:
        start = time.perf_counter()
        steps()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return images / (time.perf_counter() - start)

    return images_per_s


def _inverse(rate: Callable[[], float]) -> Callable[[], float]:
    return lambda: 1 / rate()


def _batches(run: Run, ranks: Ranks) -> Iterator[Batch]:
    return iter(train_loader(run, start_step=0, **ranks.place))
