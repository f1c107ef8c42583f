"""The causes for which evaluation is worse than training, each with its sentence and its remedy. One table.

A sentence is filled with the evidence of its signature. A cause without an entry, or a sentence that asks for
a number which was not measured, raises KeyError.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PRECISE = "recompute the estimates over training images before evaluating (PreciseBN)"
HARMLESS = "This is harmless here: its remedy gives no accuracy back that these images show."
NOT_SHOWN = (
    "Its remedy gives accuracy back on the training images; on the evaluation images that is not shown."
)

HIDDEN = "Its numbers are with the estimates of all other layers exact: other faults hide it."


@dataclass(frozen=True)
class Cause:
    """A cause's title, the sentence that states it, the remedy as an imperative, and what harmless means.

    `is_defect`: there is no clean bill with it, even if it is harmless.
    """

    title: str
    sentence: str
    remedy: str
    harmless: str = HARMLESS
    is_defect: bool = False


CAUSES = {
    "broken": Cause(
        "estimates that are no statistics",
        "The estimates of {layers} contain {what}, with which no layer can normalise.",
        f"Find out where the training or the file was damaged, and {PRECISE}.",
        "They are a fault, although they cost no accuracy that these images show.",
        is_defect=True,
    ),
    "never_updated": Cause(
        "estimates never updated",
        "No training batch has updated the estimates: {layers} still have the initial mean 0 and variance 1.",
        f"Let BN layers run in training mode while the network trains, or {PRECISE}.",
    ),
    "frozen": Cause(
        "layers frozen by accident",
        "The estimates of {layers} have stopped following the training: {reason}. They are {lag:.2g} "
        "standard deviations away from the statistics of their inputs.",
        f"Let these layers run in training mode with a momentum above 0, or {PRECISE}.",
    ),
    "warming_up": Cause(
        "estimates half warmed up",
        "The estimates are only half warmed up: after {updates:,} updates with momentum {momentum:g} they "
        "still consist of the initial mean 0 and variance 1 by {share_percent:.2g} %.",
        "Train for {needed:,} steps or more, divide the initial values out (bias correction), or recompute "
        "the estimates over training images (PreciseBN).",
    ),
    "inherited": Cause(
        "shift inherited from one layer",
        "The shift starts in {start}, whose own estimates are {lag:.2g} standard deviations away from the "
        "statistics of its inputs, {ratio:,.0f} times their sampling error. {inheritance}",
        "Recompute the estimates of {layers} alone over training images (PreciseBN), and find out why they "
        "differ: a checkpoint that lacks them, or weights before them that changed later.",
    ),
    "last_batch": Cause(
        "last batches too small",
        "The last batch is too small: it has {last:,} of the usual {usual:,} images, and the averages weigh "
        "it with the momentum {momentum:g} as any other batch. Running averages over these batches lose "
        "{harm:.1f} points of top-1 by ending with it.",
        f"Leave an incomplete last batch out of the training (drop_last=True), or {PRECISE}.",
    ),
    "slow_momentum": Cause(
        "momentum too small for the steps trained",
        "The momentum is too small for the steps trained: with {momentum:.2g}, the averages reach back over "
        "some {span:,} of {updates:,} updates. They are {lag:.2g} standard deviations away from the "
        "statistics of the final weights, {ratio:,.0f} times their sampling error.",
        f"Train with a larger momentum, such as {{better:.2g}}, or {PRECISE}.",
    ),
    "stale": Cause(
        "estimates of other weights or images",
        "The estimates belong to other weights or to other images than these: they are {lag:.2g} standard "
        "deviations away from the statistics of the training images, {ratio:,.0f} times their sampling "
        "error, although the averages reach back over only some {span:,} updates.",
        f"After averaging, pruning or rescaling weights, {PRECISE}. Otherwise compare the preprocessing of "
        "these images with that of the training, and let the learning rate fall at its end.",
    ),
    "averaged": Cause(
        "estimates of no averaged network",
        "The weights are an average of several networks', and no training batch has passed through their "
        "average: the estimates are {lag:.2g} standard deviations away from the statistics of the training "
        "images, {ratio:,.0f} times their sampling error.",
        f"After averaging weights (EMA, SWA, soups), {PRECISE}.",
    ),
    "short_average": Cause(
        "momentum too large",
        "The averages are too short: with momentum {momentum:g} they cover about {covered:.2g} batches of "
        "{samples:,} images, and their sampling error is {error:.2g} standard deviations.",
        f"Train with a smaller momentum, or {PRECISE}.",
    ),
    "gap": Cause(
        "train/test gap of the statistics",
        "The evaluation images have other statistics than the training images: in the median layer they "
        "differ by {gap:.2g} standard deviations, {ratio:,.0f} times the sampling error.",
        "Compare the preprocessing of both (normalisation, size, crop, augmentation); if the images do "
        "differ, take the estimates over unlabelled evaluation images.",
    ),
    "few_samples": Cause(
        "too few samples behind a statistic",
        "Too few samples are behind a statistic: in the noisiest layer, the statistics of {samples:,} images "
        "vary between batches as those of {effective:.2g} independent values.",
        "Train with more samples per statistic (a larger batch per GPU, SyncBN), in batches that are mixed "
        "anew, or with XBN. No remedy after the training gives this back.",
        "It is not shown to make evaluation worse than training; what it costs in training, only another "
        "training would show.",
    ),
}


def listed(names: Sequence[str], total: int) -> str:
    """Return names for a sentence, such as "all 20 BN layers" or "3 of 20 BN layers (bn1, bn2, …)"."""
    if total == 1:
        return f"the only BN layer{f' ({names[0]})' if names[0] else ''}"
    if len(names) == 1:
        return f"layer {names[0]}"
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"all {total} BN layers" if len(names) == total else f"{len(names)} of {total} BN layers ({shown})"


def sentences(
    cause: str, evidence: Mapping[str, Any], is_harmful: bool, is_shown_in_training: bool
) -> tuple[str, str, str]:
    """Return a cause's title, its sentence and its remedy, filled with the evidence.

    If it is not harmful, the sentence says what that means.
    """
    entry = CAUSES[cause]
    sentence, remedy = (template.format_map(evidence) for template in (entry.sentence, entry.remedy))
    if not is_harmful:
        sentence = f"{sentence} {NOT_SHOWN if is_shown_in_training else entry.harmless}"
    return entry.title, sentence, remedy
