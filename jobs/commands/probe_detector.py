"""The subject of `shiftbench probe` where the checkpoint is a detection run's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jobs.commands.probe_input import Preprocessing
from jobs.commands.probe_network import Subject, is_averaged, put_checkpoints
from jobs.commands.probe_options import Weights
from suite.data.loader import MEAN, STD
from suite.errors import UserError
from suite.experiment import DetectionSpec, Run
from suite.large_imports import collecting_no_garbage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from suite.data.loader import BatchLoader
    from suite.shift.remedies import Accuracy

PURPOSES = ("probe", "diagnose")
# What `probe` measures of detectors, beside the profile.
MEASURED = {"attribution", "remedies"}


@dataclass(frozen=True)
class DetectorSubject(Subject):
    """A detector of a run."""

    def loader(
        self, split: Literal["train", "val"], num_images: int | None, per_batch: int
    ) -> "BatchLoader[Any]":
        """Return so many images of a split (None: all), resized as in the run; of train/ those with boxes."""
        from suite.detection.loaders import detection_split_loader

        assert self.run is not None
        return detection_split_loader(
            self.run, split, images_per_batch=per_batch, num_images=num_images, device=self.device
        )

    def num_images(self, split: Literal["train", "val"]) -> int:
        from suite.detection.loaders import detection_index

        assert self.run is not None
        return len(detection_index(self.run, split, self.run.data.val_images if split == "val" else None))

    def check_outputs(self, images: Any, advice: str) -> None:
        """Accept the network, which the run has built for its data."""

    @property
    def input(self) -> str:
        assert self.run is not None
        assert isinstance(self.run.task, DetectionSpec)
        sizes = f"shorter side {self.run.task.min_size} pixels, longer at most {self.run.task.max_size}"
        return f"{sizes}, normalised by torchvision's network"

    def accuracy(self, split: Literal["train", "val"], num_images: int | None) -> "Accuracy":
        """Return AP over the images that `loader` gives."""
        from suite.detection.loaders import detection_index
        from suite.detection.task import Detection
        from suite.shift.remedies import Accuracy
        from suite.train.distributed import Ranks

        assert self.run is not None
        task, ranks = Detection(self.run), Ranks(0, 0, 1, self.device)
        index = detection_index(self.run, split, num_images)

        def percent(network: "nn.Module", batches: "Iterable[Any]") -> float:
            return task.evaluate_on(index, network, batches, ranks).accuracy_percent

        return Accuracy(self.run.task.entry.accuracy, percent)


def detector_subject(
    run: Run,
    purpose: str,
    checkpoint: Path,
    soup: Sequence[Path],
    alpha: float | None,
    weights: Weights | None,
    wanted: set[str],
    others: dict[str, Any],
) -> DetectorSubject:
    """Return the detector of a checkpoint. `others`: the options that describe a network or images.

    Raises UserError for what is not measured of detectors, and for options that the run decides.
    """
    assert isinstance(run.task, DetectionSpec)
    if purpose not in PURPOSES:
        measuring = " and ".join(f"`{one}`" for one in PURPOSES)
        raise UserError(f"{purpose}: {checkpoint} is of a detection run; detectors are for {measuring}")
    if unknown := sorted(wanted - MEASURED):
        raise UserError(
            f"probe: {unknown[0].replace('_', ' ')} is not measured of detectors; "
            f"take --{' or --'.join(('attribute', 'remedies'))}"
        )
    if given := [name for name, value in others.items() if value is not None]:
        raise UserError(f"--{given[0].replace('_', '-')}: the checkpoint's detection run decides that")
    with collecting_no_garbage():
        import torch

        from suite.detection.frozen import thaw_batch_norms
        from suite.detection.network import build_detector

    torch.manual_seed(0)
    network = build_detector(run, with_weights=False)
    taken = put_checkpoints(network, [checkpoint, *soup], alpha, weights)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if purpose == "probe":  # then the statistics of frozen norms can be tried, like those of BN
        thaw_batch_norms(network)
    given_as = Preprocessing(MEAN, STD, "torchvision's")
    title = f"{run.task.label} {run.model.arch} {run.norm_label}"
    average = is_averaged(taken, soup)
    return DetectorSubject(
        network.to(device), run.data, given_as, taken, title, run, purpose, device, average
    )
