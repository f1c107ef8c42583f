"""Carries out a plan on one network: every shift, and every method of test time."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

import torch
from torch import nn

from suite.data.renormalise import Renormalised
from suite.data.shifted import ShiftedImages, open_shift
from suite.data.shifts import CLEAN, Shift, Stream
from suite.errors import UserError
from suite.experiment import DataSpec
from suite.record import PartsRecord, RobustnessRecord, ShiftRecord, TestTimeRecord
from suite.robustness_coverage import missing_of
from suite.shift.layers import batch_norm_layers
from suite.shift.robustness.measure import Interleaved, ShiftResult, measure_shift, top1_at_test_time
from suite.specs.robustness import Order, RobustnessPlan

IMAGES_PER_BATCH = 50  # of a pass in inference mode, whose result does not depend on it


@dataclass(frozen=True)
class Images:
    """How a network's images are read: `num_channels` that it reads, and worker processes that decode.

    `normalisation`: mean and standard deviation by channel, of images in [0, 1]; None: ImageNet's.
    """

    data: DataSpec
    device: torch.device
    num_channels: int = 3
    num_workers: int = 2
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None

    def open(
        self,
        shift: Shift,
        per_batch: int,
        max_images: int | None,
        order: Order = "mixed",
        seed: int = 0,
        only: Sequence[int] | None = None,
    ) -> ShiftedImages:
        """Open a shift's images. Raises UserError as `open_shift` does."""
        opened = open_shift(
            shift,
            self.data,
            images_per_batch=per_batch,
            device=self.device,
            num_images=max_images,
            order=order,
            seed=seed,
            only=only,
            num_channels=self.num_channels,
            num_workers=self.num_workers,
        )
        if self.normalisation is None:
            return opened
        return replace(opened, loader=Renormalised(opened.loader, *self.normalisation))


def survey(
    model: nn.Module,
    images: Images,
    plan: RobustnessPlan,
    *,
    step: int = 0,
    known: RobustnessRecord | None = None,
    keep: Callable[[RobustnessRecord], None] = lambda record: None,
) -> RobustnessRecord:
    """Measure what a plan asks for, beyond what is `known` of the same step and data.

    `keep` is given the record after each result, so that nothing is lost when a later one fails. A network
    without BN has no estimation shift and no methods of test time. Raises UserError as `measure_shift` and
    `open_shift` do; for a method that cannot do with a stream at the end, when all others were measured.
    """
    record = RobustnessRecord(step=step, data=images.data.name)
    if known is not None and known.is_of_same(record):
        record = known
    missing = missing_of(record, plan, has_bn=bool(batch_norm_layers(model)))
    for shift in missing.shifts:
        found = _shift_record(model, images, shift, plan)
        others = [one for one in record.shifts if one.key != found.key]
        record = record.model_copy(update={"shifts": (*others, found)})
        keep(record)
    refused: UserError | None = None
    for stream, method in missing.streams:
        try:
            result = _stream_record(model, images, stream, method, plan.max_images)
        except UserError as error:
            refused = refused or error
            continue
        record = record.model_copy(update={"test_time": (*record.test_time, result)})
        keep(record)
    if refused is not None:
        raise refused
    return record


def _shift_record(model: nn.Module, images: Images, shift: Shift, plan: RobustnessPlan) -> ShiftRecord:
    opened = images.open(shift, IMAGES_PER_BATCH, plan.max_images)
    outputs = opened.outputs_K
    with closing(opened.loader):
        found = measure_shift(model, opened.loader, outputs=outputs, with_parts=plan.with_parts)
    reference = None
    if outputs is not None:
        with closing(images.open(CLEAN, IMAGES_PER_BATCH, None, only=outputs).loader) as loader:
            of_clean = measure_shift(model, loader, outputs=outputs)
        reference = of_clean.top1_percent, of_clean.confidence_percent
    profile = found.profile
    return ShiftRecord(
        shift=shift.name,
        kind=shift.kind,
        severity=shift.severity,
        source=shift.source,
        max_images=plan.max_images,
        num_images=found.num_images,
        num_classes=images.data.num_classes if outputs is None else len(outputs),
        bad_images=len(opened.loader.bad_images),
        top1_percent=found.top1_percent,
        loss=found.loss,
        confidence_percent=found.confidence_percent,
        reference=reference,
        layers=tuple(layer.name for layer in profile.layers),
        esm_mu_scaled=tuple(profile.values("esm_mu_scaled")),
        esm_sigma_scaled=tuple(profile.values("esm_sigma_scaled")),
        parts=_parts(found),
    )


def _parts(found: ShiftResult) -> PartsRecord | None:
    if found.attribution is None:
        return None
    layers = found.attribution.layers
    return PartsRecord(
        layers=tuple(layer.name for layer in layers),
        mu_own=tuple(layer.mu.own for layer in layers),
        mu_inherited=tuple(layer.mu.inherited for layer in layers),
        sigma_own=tuple(layer.sigma.own for layer in layers),
        sigma_inherited=tuple(layer.sigma.inherited for layer in layers),
    )


def _stream_record(
    model: nn.Module, images: Images, stream: Stream, method: str, max_images: int | None
) -> TestTimeRecord:
    with ExitStack() as stack:
        # Each shift in an order of its own: otherwise a batch would be a few images in many versions.
        opened = [
            images.open(shift, stream.images_of_each, max_images, stream.order, seed)
            for seed, shift in enumerate(stream.shifts)
        ]
        for one in opened:
            stack.enter_context(closing(one.loader))
        batches: Iterable[object] = opened[0].loader
        if len(opened) > 1:
            batches = Interleaved([one.loader for one in opened])
        outputs = opened[0].outputs_K if len(opened) == 1 else None
        top1_percent, num_images = top1_at_test_time(model, batches, method, outputs=outputs)
    names, sources, *_ = stream.key(max_images)
    return TestTimeRecord(
        shifts=names,
        sources=sources,
        max_images=max_images,
        method=method,
        order=stream.order,
        images_per_batch=stream.images_per_batch,
        num_images=num_images,
        top1_percent=top1_percent,
    )
