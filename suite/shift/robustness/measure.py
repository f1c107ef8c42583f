"""Measures a network under a shift: its accuracy, confidence and estimation shift, and what helps.

The expected statistics are those of the shifted images with the whole network in inference mode, so that ESM
compares the estimates of training with what the shift makes of each layer's input. It needs no labels.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite.errors import UserError
from suite.shift.attribute import Attribution, attribute
from suite.shift.batches import Logits, images_of, labels_of, logits_of
from suite.shift.layers import batch_norm_layers, preserved
from suite.shift.passes import run_pass, top1_of
from suite.shift.probe import ShiftProfile, profile_of
from suite.shift.recorder import Pass
from suite.shift.robustness.test_time import adapting

PURPOSE = "robust"


@dataclass(frozen=True)
class ShiftResult:
    """A network under one shift.

    `top1_percent`: among the outputs that the shift has classes for. `loss`: mean cross-entropy (nat) over
    all outputs; it is not renormalised to those classes. `confidence_percent`: the mean of the largest
    probability, over all outputs. `profile`: the estimation shift by layer, without layers for a network
    without BN. `attribution`: its parts, where they were asked for.
    """

    num_images: int
    top1_percent: float
    loss: float
    confidence_percent: float
    profile: ShiftProfile
    attribution: Attribution | None = None


def measure_shift(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    outputs: Sequence[int] | None = None,
    logits: Logits | None = None,
    with_parts: bool = False,
) -> ShiftResult:
    """Measure `model` over the images of a shift in one inference pass, and two more `with_parts`.

    `batches` yields (images (N, C, *), labels (N,)) pairs or loader batches. `outputs`: the outputs that the
    shift has classes for, among which the first guess is; None: all. `logits` takes the (N, K) logits out of
    what the model returns. The model is restored. Raises UserError for batches that are empty or have no
    labels, and for logits that are not finite.
    """
    tally = _Tally(outputs, logits)
    with preserved(model):
        model.eval()
        seen = run_pass(
            model,
            tally.watched(batches),
            PURPOSE,
            with_labels=True,
            logits=tally,
            with_frozen=True,
            with_functional=True,
        )
    top1_percent, (loss, confidence) = top1_of(seen, PURPOSE), tally.sums()
    profile = profile_of(model, seen)
    # Layers that normalise with constants have no training mode, and so no parts.
    has_parts = with_parts and any(
        layer.running_var is not None for layer in batch_norm_layers(model).values()
    )
    return ShiftResult(
        seen.num_images,
        top1_percent,
        loss / seen.num_images,
        100 * confidence / seen.num_images,
        profile,
        attribute(model, batches) if has_parts else None,
    )


def top1_at_test_time(
    model: nn.Module,
    batches: Iterable[Any],
    method: str,
    *,
    outputs: Sequence[int] | None = None,
    logits: Logits | None = None,
) -> tuple[float, int]:
    """Return top-1 (%) over a stream with a method of `METHODS`, and the number of images.

    `batches` is the stream: its order and its batch size are part of the result. The model is
    restored. Raises UserError as `measure_shift` does, and for a batch that the method cannot do with.
    """
    tally = _Tally(outputs, logits)
    with preserved(model):
        model.eval()
        with adapting(model, method):
            seen: Pass = run_pass(model, tally.watched(batches), PURPOSE, with_labels=True, logits=tally)
    tally.sums()
    return top1_of(seen, PURPOSE), seen.num_images


class _Tally:
    """Takes the logits of each batch, sums loss and confidence, and masks the outputs without a class."""

    def __init__(self, outputs: Sequence[int] | None, logits: Logits | None) -> None:
        self.outputs, self.take = outputs, logits
        self._labels: Tensor | None = None
        # On the network's device: reading a number would wait for it.
        self._sums_2: Tensor | None = None

    def watched(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches, and note the labels of each."""
        for batch in batches:
            self._labels = labels_of(batch)
            yield batch

    def sums(self) -> tuple[float, float]:
        """Return the sums of the loss and of the confidence. Raises UserError when they are not finite."""
        assert self._sums_2 is not None, "the pass has had labels, and so logits"
        loss, confidence = self._sums_2.tolist()
        if not (math.isfinite(loss) and math.isfinite(confidence)):
            raise UserError(f"{PURPOSE}: the network's outputs are not finite")
        return loss, confidence

    def __call__(self, output: Any) -> Tensor:
        """Return the logits (N, K) with −∞ for outputs that the shift has no classes for."""
        logits_NK = logits_of(output, self.take)
        if logits_NK is None or self._labels is None:
            needs = "needs batches of (images, labels), and (N, K) logits"
            raise UserError(f"{PURPOSE}: {needs}; `logits` can take them out of what the network returns")
        logits_NK = logits_NK.float()
        labels_N = self._labels.to(logits_NK.device)
        # A label without an output is the pass's to refuse.
        loss = F.cross_entropy(logits_NK, labels_N.clamp(max=logits_NK.shape[1] - 1), reduction="sum")
        confidence = logits_NK.softmax(dim=1).amax(dim=1).sum()
        sums_2 = torch.stack([loss, confidence]).double()
        self._sums_2 = sums_2 if self._sums_2 is None else self._sums_2 + sums_2
        if self.outputs is None:
            return logits_NK
        masked_NK = torch.full_like(logits_NK, -torch.inf)
        masked_NK[:, self.outputs] = logits_NK[:, self.outputs]
        return masked_NK


class Interleaved:
    """Batches (images, labels) that mix domains: each joins one of every stream, as long as all last."""

    def __init__(self, streams: Sequence[Iterable[Any]]) -> None:
        self.streams = streams

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for parts in zip(*self.streams, strict=False):
            images, labels = zip(
                *((images_of(part, PURPOSE), labels_of(part)) for part in parts), strict=True
            )
            yield torch.cat(images), torch.cat(labels)
