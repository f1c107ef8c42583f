"""Measures a run beyond its accuracy: the shift, PreciseBN's accuracy, TID, and the work of a step."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice

import torch

from suite.data import Batch, steps_per_epoch, train_images_loader, train_loader
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
from suite.train.evaluate import Evaluation, UntilStopped, evaluate
from suite.train.meter import flops_per_image, matmul_peak_flops_per_s
from suite.train.optim import autocast


def evaluate_and_probe(
    run: Run, model: torch.nn.Module, ranks: Ranks, batches: Iterable[Batch], *, with_shift: bool
) -> tuple[Evaluation, ShiftProfile | None]:
    """Evaluate, and `with_shift` probe in the same pass. Raises UserError as both do."""
    # Both in the run's own precision: otherwise rounding would appear as estimation shift.
    if not with_shift:
        return evaluate(model, batches, ranks, run.recipe.precision), None
    with recording(model, "probe", with_frozen=True) as recorder:
        result = evaluate(model, recorder.watched(batches), ranks, run.recipe.precision)
    return result, profile_of(model, recorder.result())


def top1_with_precise_bn(
    run: Run,
    model: torch.nn.Module,
    ranks: Ranks,
    val_batches: Iterable[Batch],
    is_asked_to_stop: Callable[[], bool],
) -> float | None:
    """Return top-1 (%) with PreciseBN's statistics, or None where the run does not ask for it."""
    if not run.measure.precise_bn_images or not batch_norm_layers(model):
        return None
    with with_statistics(model, _re_estimated(run, model, ranks, is_asked_to_stop)):
        return evaluate(model, val_batches, ranks, run.recipe.precision).top1_percent


def _re_estimated(
    run: Run, model: torch.nn.Module, ranks: Ranks, is_asked_to_stop: Callable[[], bool]
) -> Statistics:
    """Return PreciseBN's statistics of `model` over `measure.precise_bn_images` training images."""
    # The training stream after its last step: augmented as in training, and the same after a resumption.
    last_step = run.num_epochs * steps_per_epoch(run)
    loader = train_loader(run, start_step=last_step, **ranks.place)
    try:
        passes = -(-run.measure.precise_bn_images // (run.batch.per_gpu * ranks.world_size))
        with autocast(ranks.device, run.recipe.precision):
            return precise_statistics(model, UntilStopped(islice(loader, passes), is_asked_to_stop))
    finally:
        loader.close()


@dataclass(frozen=True)
class OnAverage:
    """Of averaged weights, over the validation images: top-1 (%) and shift, with two kinds of statistics.

    None: not measured. `precise` are those with PreciseBN's statistics over training images.
    """

    top1_percent: float | None = None
    profile: ShiftProfile | None = None
    top1_precise_percent: float | None = None
    profile_precise: ShiftProfile | None = None


def measure_average(
    run: Run,
    network: torch.nn.Module,
    ranks: Ranks,
    val_batches: Iterable[Batch],
    is_asked_to_stop: Callable[[], bool],
    *,
    with_top1: bool,
    with_shift: bool,
) -> OnAverage:
    """Measure a network of averaged weights with the statistics it has and, `with_shift`, re-estimated ones.

    Statistics are re-estimated for each network: those of the trained weights belong to other activations.
    """
    place = (run, network, ranks, val_batches)
    result, profile = evaluate_and_probe(*place, with_shift=with_shift)
    found = OnAverage(result.top1_percent if with_top1 else None, profile)
    if profile is None or not profile.layers or not run.measure.precise_bn_images:
        return found
    with with_statistics(network, _re_estimated(run, network, ranks, is_asked_to_stop)):
        result, profile = evaluate_and_probe(*place, with_shift=True)
    return replace(found, top1_precise_percent=result.top1_percent, profile_precise=profile)


def tid_meter(run: Run, model: torch.nn.Module, ranks: Ranks) -> TidMeter | None:
    """Return a meter of TID while `run` trains `model`; None if `run` does not ask for it or has no BN.

    Only the first rank has one, since its estimates are the run's.
    """
    if not run.measure.tid or not ranks.is_first or not batch_norm_layers(model):
        return None
    example_NCHW = torch.zeros(1, 3, run.data.image_size, run.data.image_size, device=ranks.device)
    return TidMeter(model, example_NCHW, norm_batch_size=run.batch.norm)


@dataclass(frozen=True)
class OnTrainingImages:
    """Top-1 (%) in inference mode over the training images, with two kinds of estimates, and the shift."""

    top1_inference_percent: float
    top1_bias_corrected_percent: float
    profile: ShiftProfile | None


def measure_training_images(
    run: Run,
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
        found, profile = evaluate_and_probe(run, model, ranks, batches, with_shift=with_shift)
        plain = corrected = found.top1_percent
        if statistics := bias_corrected_statistics(model):
            with with_statistics(model, statistics):
                corrected = evaluate(model, batches, ranks, precision).top1_percent
        return OnTrainingImages(plain, corrected, profile)
    finally:
        loader.close()


def measure_work(
    run: Run, model: torch.nn.Module, ranks: Ranks, images_per_s: float | None
) -> dict[str, float]:
    """Measure the FLOPs of an image, the matmul peak of this rank's device (FLOP/s), and its share in use."""
    flops = flops_per_image(model, run.data.image_size, ranks.device)
    peak = matmul_peak_flops_per_s(ranks.device, run.recipe.precision)
    work = {"flops_per_image": flops, "matmul_peak_flops_per_s": peak}
    if images_per_s is not None:
        work["matmul_peak_share"] = flops * images_per_s / (ranks.world_size * peak)
    return work
