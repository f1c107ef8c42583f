"""What `shiftbench probe` measures, all of it over the same images. torch only where it measures."""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from suite.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from suite.data import Loader
    from suite.experiment import DataSpec
    from suite.shift import Attribution, Origins, Perturbation, Remedies, ShiftProfile

# Behind exact statistics and the replays; as many as a run takes by default.
TRAINING_IMAGES = 2048
LEAVE_OUT = "leave out --remedies, --origins and --perturb"


@dataclass(frozen=True)
class Wanted:
    """What is to be measured beside the shift itself."""

    attribute: bool
    origins: bool
    remedies: bool
    perturb: bool

    @property
    def needs_labels(self) -> bool:
        return self.origins or self.remedies or self.perturb

    @property
    def needs_training_images(self) -> bool:
        return self.origins or self.remedies


@dataclass(frozen=True)
class Found:
    """What was measured; None what was not wanted.

    `num_training_images`: so many, centre-cropped, are behind exact statistics.
    """

    profile: "ShiftProfile"
    attribution: "Attribution | None"
    origins: "Origins | None"
    remedies: "Remedies | None"
    perturbation: "Perturbation | None"
    num_training_images: int


def measure(
    network: "nn.Module",
    data: "DataSpec",
    wanted: Wanted,
    split: Literal["train", "val"],
    num_images: int | None,
    images_per_batch: int,
) -> Found:
    """Measure `network` over a split, on a GPU where there is one. Raises UserError as `suite.shift` does."""
    import torch

    from suite import shift
    from suite.data import folder_loader, split_size

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device)
    # Shuffled: batches of one class would have the statistics of that class.
    load = functools.partial(
        folder_loader, data, images_per_batch=images_per_batch, device=device, shuffle_seed=0
    )
    num_training = min(TRAINING_IMAGES, split_size(data, "train")) if wanted.needs_training_images else 0
    images = load(split, num_images=num_images)
    training = load("train", num_images=num_training) if num_training else None
    try:
        if wanted.needs_labels:
            _check_outputs(network, images, data.num_classes)
        return Found(
            shift.probe(network, images),
            shift.attribute(network, images) if wanted.attribute else None,
            shift.find_origins(network, images, training_batches=training) if wanted.origins else None,
            shift.remedies(network, images, training) if wanted.remedies else None,
            shift.perturb(network, images) if wanted.perturb else None,
            num_training,
        )
    finally:
        images.close()
        if training is not None:
            training.close()


def _check_outputs(network: "nn.Module", images: "Loader", num_classes: int | None) -> None:
    """Raises UserError where accuracy on these data would mean nothing."""
    import torch

    with torch.no_grad():
        outputs = network.eval()(next(iter(images)).images_NCHW)
    if outputs.shape[1:] != (num_classes,):
        raise UserError(
            f"probe: the network has outputs of shape {tuple(outputs.shape[1:])}, and the data {num_classes} "
            f"classes; {LEAVE_OUT}"
        )
