"""Measures a run beyond its accuracy: the shift, PreciseBN's accuracy, TID, and the work of a step."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from suite.data import (
    client_loader,
    evaluation_batch_size,
    split_size,
    train_images_loader,
)
from suite.data.loader import BatchLoader
from suite.experiment import Run
from suite.metrics import SHIFT_OF_CLIENTS
from suite.record import Layer
from suite.shift import (
    ShiftProfile,
    TidMeter,
    bias_corrected_statistics,
    precise_statistics,
    with_statistics,
)
from suite.shift.layers import batch_norm_layers
from suite.shift.precise import Statistics
from suite.shift.probe import profile_of
from suite.shift.recorder import recording
from suite.train.distributed import Ranks
from suite.train.evaluate import UntilStopped, evaluate
from suite.train.federation import Federation
from suite.train.meter import flops_per_image, matmul_peak_flops_per_s
from suite.train.optim import autocast
from suite.train.task import Evaluated, Task, steps_per_epoch, task_of


def evaluate_and_probe(
    task: Task, model: torch.nn.Module, ranks: Ranks, batches: Iterable[Any], *, with_shift: bool
) -> tuple[Evaluated, ShiftProfile | None]:
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
    # Of federated clients the images of all of them: their own streams give one client's at a time.
    pooled = run.model_copy(update={"recipe": run.recipe.model_copy(update={"federated": None})})
    loader = task_of(pooled).train_loader(last_step, ranks)
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


@dataclass(frozen=True)
class OfClients:
    """Means over federated clients, each measured on validation images that have the shares of its labels.

    `top1_percent` is None where only the shift is measured. `shift`: of each layer, by name of
    `SHIFT_OF_CLIENTS`; empty without a probe or without BN.
    """

    top1_percent: float | None
    layers: list[Layer]
    shift: dict[str, list[float]]


def measure_clients(
    run: Run,
    task: Task,
    federation: Federation,
    ranks: Ranks,
    is_asked_to_stop: Callable[[], bool],
    *,
    with_top1: bool,
    with_shift: bool,
) -> OfClients:
    """Measure each client's network, which is the server's, or has BN layers of its own."""
    top1, profiles = [], []
    images = run.data.val_images or split_size(run.data, "val")
    together = evaluation_batch_size(run, images // federation.spec.clients)
    for client in range(federation.spec.clients):
        loader = client_loader(run, client, images_per_batch=together, **ranks.place)
        try:
            batches = UntilStopped(loader, is_asked_to_stop)
            with federation.as_client(client) as model:
                result, profile = evaluate_and_probe(task, model, ranks, batches, with_shift=with_shift)
        finally:
            loader.close()
        top1.append(result.accuracy_percent)
        if profile is not None and profile.layers:
            profiles.append(profile)
    layers = [Layer(one.name, one.num_channels) for one in profiles[0].layers] if profiles else []
    shift = {
        name: np.mean([profile.values(probed) for profile in profiles], axis=0).tolist()
        for name, probed in SHIFT_OF_CLIENTS.items()
        if profiles
    }
    return OfClients(float(np.mean(top1)) if with_top1 else None, layers, shift)


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


def training_images(run: Run, task: Task, ranks: Ranks) -> BatchLoader[Any]:
    """Return this rank's share of the images that `run` trains on, for `measure_training_images`."""
    together = evaluation_batch_size(run, task.steps_per_pass() * run.batch.global_batch_size)
    return train_images_loader(run, images_per_batch=together, **ranks.place)


def measure_training_images(
    run: Run,
    task: Task,
    model: torch.nn.Module,
    ranks: Ranks,
    batches: Iterable[Any],
    *,
    with_shift: bool,
) -> OnTrainingImages:
    """Measure in inference mode over the `batches` of the images that the run trains on.

    When the training's own top-1 is far higher, the estimated statistics are the cause: the images are the
    same (except for random crops), and so are the weights, to within a step. Bias-corrected estimates show
    which part of it is their first values, 0 and 1. Without BN both accuracies are the same.
    """
    found, profile = evaluate_and_probe(task, model, ranks, batches, with_shift=with_shift)
    plain = corrected = found.accuracy_percent
    if statistics := bias_corrected_statistics(model):
        with with_statistics(model, statistics):
            corrected = evaluate(model, batches, ranks, run.recipe.precision).top1_percent
    return OnTrainingImages(plain, corrected, profile)


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
