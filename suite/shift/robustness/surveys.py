"""Carries out a plan on one network: every shift, and every method of test time."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

import torch
from torch import nn

from suite.data.renormalise import Renormalised
from suite.data.shifted import ShiftedImages, open_shift
from suite.data.shifts import Shift, Stream
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

    def open(self, shift: Shift, per_batch: int, max_images: int | None, order: Order) -> ShiftedImages:
        """Open a shift's images. Raises UserError as `open_shift` does."""
        opened = open_shift(
            shift,
            self.data,
            images_per_batch=per_batch,
            device=self.device,
            num_images=max_images,
            order=order,
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
) -> RobustnessRecord:
    """Measure what a plan asks for, beyond what is `known` of the same step, data and number of images.

    A network without BN has no estimation shift and no methods of test time. Raises UserError as
    `measure_shift` and `open_shift` do.
    """
    empty = RobustnessRecord(step=step, data=images.data.name, max_images=plan.max_images)
    known = known if known is not None and known.is_of_same(empty) else empty
    missing = missing_of(known, plan, has_bn=bool(batch_norm_layers(model)))
    shifts = {one.key: one for one in known.shifts}
    for shift in missing.shifts:
        found = _shift_record(model, images, shift, plan)
        shifts[found.key] = found
    streams = [
        _stream_record(model, images, stream, method, plan.max_images) for stream, method in missing.streams
    ]
    return known.model_copy(
        update={"shifts": tuple(shifts.values()), "test_time": (*known.test_time, *streams)}
    )


def _shift_record(model: nn.Module, images: Images, shift: Shift, plan: RobustnessPlan) -> ShiftRecord:
    opened = images.open(shift, IMAGES_PER_BATCH, plan.max_images, "mixed")
    with closing(opened.loader):
        found = measure_shift(model, opened.loader, outputs=opened.outputs_K, with_parts=plan.with_parts)
    profile = found.profile
    return ShiftRecord(
        shift=shift.name,
        kind=shift.kind,
        severity=shift.severity,
        num_images=found.num_images,
        num_classes=images.data.num_classes if opened.outputs_K is None else len(opened.outputs_K),
        top1_percent=found.top1_percent,
        loss=found.loss,
        confidence_percent=found.confidence_percent,
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
        mu_own=tuple(layer.mu.own for layer in layers),
        mu_inherited=tuple(layer.mu.inherited for layer in layers),
        sigma_own=tuple(layer.sigma.own for layer in layers),
        sigma_inherited=tuple(layer.sigma.inherited for layer in layers),
    )


def _stream_record(
    model: nn.Module, images: Images, stream: Stream, method: str, max_images: int | None
) -> TestTimeRecord:
    each = stream.images_per_batch // len(stream.shifts)
    with ExitStack() as stack:
        opened = [images.open(shift, each, max_images, stream.order) for shift in stream.shifts]
        for one in opened:
            stack.enter_context(closing(one.loader))
        batches: Iterable[object] = opened[0].loader
        if len(opened) > 1:
            batches = Interleaved([one.loader for one in opened])
        outputs = opened[0].outputs_K if len(opened) == 1 else None
        top1_percent, num_images = top1_at_test_time(model, batches, method, outputs=outputs)
    return TestTimeRecord(
        shift=stream.name,
        severity=stream.severity,
        method=method,
        order=stream.order,
        images_per_batch=stream.images_per_batch,
        num_images=num_images,
        top1_percent=top1_percent,
    )
