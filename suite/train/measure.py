"""Measures a run beyond its accuracy: the shift, PreciseBN's accuracy, TID, and the work of a step."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
from suite.shift.layers import batch_norm_layers, check_visible
from suite.shift.passes import recording
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
    check_visible(model, "probe")
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
    images_wanted = run.measure.precise_bn_images
    if not images_wanted or not batch_norm_layers(model):
        return None
    # The training stream after its last step: augmented as in training, and the same after a resumption.
    last_step = run.recipe.epochs * steps_per_epoch(run)
    loader = train_loader(run, start_step=last_step, **ranks.place)
    try:
        passes = -(-images_wanted // (run.batch.per_gpu * ranks.world_size))
        with autocast(ranks.device, run.recipe.precision):
            batches = UntilStopped(islice(loader, passes), is_asked_to_stop)
            statistics = precise_statistics(model, batches)
    finally:
        loader.close()
    with with_statistics(model, statistics):
        return evaluate(model, val_batches, ranks, run.recipe.precision).top1_percent


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
