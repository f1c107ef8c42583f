"""Measures what `shiftbench probe` prints, all of it over the same images. Imports torch when it measures."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from suite.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from suite.experiment import DataSpec
    from suite.shift import Origins, ShiftProfile

TRAINING_IMAGES = 2048  # for exact statistics and replays; a run takes as many by default
LEAVE_OUT = "leave out --remedies, --origins and --perturb"


class Result(Protocol):
    """A result of `suite.shift`."""

    def to_frame(self) -> "pd.DataFrame": ...


@dataclass(frozen=True)
class ProbeResults:
    """The shift, and `others` by name: attribution, origins, remedies, perturbation, if asked for.

    The exact statistics are those of `num_training_images`, centre-cropped.
    """

    profile: "ShiftProfile"
    others: Mapping[str, Result]
    origins: "Origins | None"
    num_training_images: int


def measure(
    network: "nn.Module",
    data: "DataSpec",
    split: Literal["train", "val"],
    num_images: int | None,
    images_per_batch: int,
    *,
    attribute: bool,
    origins: bool,
    remedies: bool,
    perturb: bool,
) -> ProbeResults:
    """Measure `network` over a split, on a GPU if there is one.

    Raises UserError as `suite.shift` does, and for accuracy on other classes than the network's.
    """
    import torch

    from suite import shift
    from suite.data import folder_loader, split_size

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device)
    # Shuffled: a batch of a single class would have the statistics of that class.
    load = functools.partial(
        folder_loader, data, images_per_batch=images_per_batch, device=device, shuffle_seed=0
    )
    num_training = min(TRAINING_IMAGES, split_size(data, "train")) if origins or remedies else 0
    images = load(split, num_images=num_images)
    training = load("train", num_images=num_training) if num_training else None
    try:
        if origins or remedies or perturb:
            with torch.no_grad():
                outputs = tuple(network.eval()(next(iter(images)).images_NCHW).shape[1:])
            if outputs != (data.num_classes,):
                classes = f"the data {data.num_classes} classes"
                raise UserError(
                    f"probe: the network has outputs of shape {outputs}, and {classes}; {LEAVE_OUT}"
                )
        profile = shift.probe(network, images)
        found: dict[str, Result] = {}
        if attribute:
            found["attribution"] = shift.attribute(network, images)
        begun = shift.find_origins(network, images, training_batches=training) if origins else None
        if begun is not None:
            found["origins"] = begun
        if remedies:
            found["remedies"] = shift.remedies(network, images, training)
        if perturb:
            found["perturbation"] = shift.perturb(network, images)
        return ProbeResults(profile, found, begun, num_training)
    finally:
        images.close()
        if training is not None:
            training.close()
