"""Measures a run beyond its accuracy: the shift, PreciseBN's accuracy, TID, and the work of a step."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from suite.data import train_images_loader
from suite.experiment import Run
from suite.shift import (
    ShiftProfile,
    TidMeter,
    bias_corrected_statistics,
    precise_statistics,
    with_statistics,
)
from suite.shift.layers import batch_norm_layers
from suite.shift.passes import recording
from suite.shift.precise import Statistics
from suite.shift.probe import profile_of
from suite.train.distributed import Ranks
from suite.train.evaluate import UntilStopped, evaluate
from suite.train.meter import flops_per_image, matmul_peak_flops_per_s
from suite.train.optim import autocast
from suite.train.task import Evaluation, Task, steps_per_epoch


def evaluate_and_probe(
    task: Task, model: torch.nn.Module, ranks: Ranks, batches: Iterable[Any], *, with_shift: bool
) -> tuple[Evaluation, ShiftProfile | None]:
    """Evaluate, and `with_shift` probe in the same pass. Raises UserError as both do."""
    # Both in the run's own precision: otherwise rounding would appear as estimation shift.
    if not with_shift:
        return task.evaluate(model, batches, ranks), None
    with recording(model, "probe", with_frozen=True) as recorder:
        result = task.evaluate(model, recorder.watched(batches), ranks)
    return result, profile_of(model, recorder.result())


def accuracy_with_precise_bn(
    run: Run,
    task: Task,
    model: torch.nn.Module,
    ranks: Ranks,
    val_batches: Iterable[Any],
    is_asked_to_stop: Callable[[], bool],
) -> float | None:
    """Return accuracy (%) with PreciseBN's statistics, or None where the run does not ask for it."""
    if not run.measure.precise_bn_images or not batch_norm_layers(model):
        return None
    with with_statistics(model, _re_estimated(run, task, model, ranks, is_asked_to_stop)):
        return task.evaluate(model, val_batches, ranks).accuracy_percent


def _re_estimated(
    run: Run, task: Task, model: torch.nn.Module, ranks: Ranks, is_asked_to_stop: Callable[[], bool]
) -> Statistics:
    """Return PreciseBN's statistics of `model` over `measure.precise_bn_images` training images."""
    # The training stream after its last step: augmented as in training, and the same after a resumption.
    last_step = run.num_epochs * steps_per_epoch(run, task)
    loader = task.train_loader(last_step, ranks)
    try:
        passes = -(-run.measure.precise_bn_images // (run.batch.per_gpu * ranks.world_size))
        with autocast(ranks.device, run.recipe.precision):
            return precise_statistics(model, UntilStopped(islice(loader, passes), is_asked_to_stop))
    finally:
        loader.close()


@dataclass(frozen=True)
class OnAverage:
    """Of averaged weights, over the validation images: accuracy (%) and shift, with two kinds of statistics.

    None: not measured. `precise` are those with PreciseBN's statistics over training images.
    """

    accuracy_percent: float | None = None
    profile: ShiftProfile | None = None
    accuracy_precise_percent: float | None = None
    profile_precise: ShiftProfile | None = None


def measure_average(
    run: Run,
    task: Task,
    network: torch.nn.Module,
    ranks: Ranks,
    val_batches: Iterable[Any],
    is_asked_to_stop: Callable[[], bool],
    *,
    with_accuracy: bool,
    with_shift: bool,
) -> OnAverage:
    """Measure a network of averaged weights with the statistics it has and, `with_shift`, re-estimated ones.

    Statistics are re-estimated for each network: those of the trained weights belong to other activations.
    """
    place = (task, network, ranks, val_batches)
    result, profile = evaluate_and_probe(*place, with_shift=with_shift)
    found = OnAverage(result.accuracy_percent if with_accuracy else None, profile)
    if profile is None or not profile.layers or not run.measure.precise_bn_images:
        return found
    with with_statistics(network, _re_estimated(run, task, network, ranks, is_asked_to_stop)):
        result, profile = evaluate_and_probe(*place, with_shift=True)
    return replace(found, accuracy_precise_percent=result.accuracy_percent, profile_precise=profile)


def tid_meter(run: Run, task: Task, model: torch.nn.Module, ranks: Ranks) -> TidMeter | None:
    """Return a meter of TID while `run` trains `model`; None if `run` does not ask for it or has no BN.

    Only the first rank has one, since its estimates are the run's.
    """
    if not run.measure.tid or not ranks.is_first or not batch_norm_layers(model):
        return None
    return TidMeter(model, task.example(ranks.device), norm_batch_size=run.batch.norm)


@dataclass(frozen=True)
class OnTrainingImages:
    """Top-1 (%) in inference mode over the training images, with two kinds of estimates, and the shift."""

    top1_inference_percent: float
    top1_bias_corrected_percent: float
    profile: ShiftProfile | None


def measure_training_images(
    run: Run,
    task: Task,
    model: torch.nn.Module,
    ranks: Ranks,
    is_asked_to_stop: Callable[[], bool],
    *,
    with_shift: bool,
) -> OnTrainingImages:
    """Measure in inference mode over the images that the run trains on.

    When the training's own top-1 is far higher, the estimated statistics are the cause: the images are the
    same (except for random crops), and so are the weights, to within a step. Bias-corrected estimates show
    which part of it is their first values, 0 and 1. Without BN both accuracies are the same.
    """
    precision = run.recipe.precision
    loader = train_images_loader(run, images_per_batch=run.batch.per_gpu, **ranks.place)
    try:
        batches = UntilStopped(loader, is_asked_to_stop)
        found, profile = evaluate_and_probe(task, model, ranks, batches, with_shift=with_shift)
        plain = corrected = found.accuracy_percent
        if statistics := bias_corrected_statistics(model):
            with with_statistics(model, statistics):
                corrected = evaluate(model, batches, ranks, precision).top1_percent
        return OnTrainingImages(plain, corrected, profile)
    finally:
        loader.close()


def measure_work(
    run: Run, task: Task, model: torch.nn.Module, ranks: Ranks, images_per_s: float | None
) -> dict[str, float]:
    """Measure the FLOPs of an image, the matmul peak of this rank's device (FLOP/s), and its share in use."""
    flops = flops_per_image(model, lambda network: task.work(network, ranks.device))
    peak = matmul_peak_flops_per_s(ranks.device, run.recipe.precision)
    work = {"flops_per_image": flops, "matmul_peak_flops_per_s": peak}
    if images_per_s is not None:
        work["matmul_peak_share"] = flops * images_per_s / (ranks.world_size * peak)
    return work
