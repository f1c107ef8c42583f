"""Builds the network that `shiftbench probe` or `diagnose` measures, and opens its images."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jobs.commands.probe_input import Preprocessing, preprocessing_of
from jobs.commands.probe_options import Weights
from jobs.commands.probe_target import choose_data, choose_specs, read_norm, run_of
from suite.errors import UserError
from suite.experiment import BatchNormSpec, DataSpec, Run
from suite.large_imports import collecting_no_garbage

if TYPE_CHECKING:
    import torch
    from torch import nn

    from suite.data import Loader, Place
    from suite.shift.remedies import Accuracy


@dataclass(frozen=True)
class Subject:
    """A network with its weights and data, and the run that it is of, if it is of one.

    `taken` says what was taken of a checkpoint, `is_average` whether that is an average of several networks'
    weights; `title` names the network and its norms.
    """

    network: "nn.Module"
    data: DataSpec
    given: Preprocessing
    taken: str | None
    title: str
    run: Run | None
    purpose: str
    device: "torch.device"
    is_average: bool = False

    def loader(self, split: Literal["train", "val"], num_images: int | None, per_batch: int) -> "Loader":
        """Return so many images of a split (None: all), in a fixed, mixed order, as the network takes them.

        A batch of a single class would have the statistics of that class. Training images are those that the
        run was trained on, if the data are the run's.
        """
        from suite.data import folder_loader, train_images_loader
        from suite.data.renormalise import Renormalised

        options: dict[str, Any] = {"num_images": num_images, "images_per_batch": per_batch, "shuffle_seed": 0}
        loader: Loader
        if split == "train" and self.run is not None and self.run.data == self.data:
            place: Place = {"rank": 0, "world_size": 1, "device": self.device}
            loader = train_images_loader(self.run, **options, **place)
        else:
            loader = folder_loader(self.data, split, device=self.device, **options)
        return loader if self.given.is_imagenets else Renormalised(loader, self.given.mean, self.given.std)

    def num_images(self, split: Literal["train", "val"]) -> int:
        """Return how many images there are of a split: all, or those that the run trains or validates on."""
        from suite.data import split_size

        is_runs = self.run is not None and self.run.data == self.data
        chosen = {"train": self.data.train_images, "val": self.data.val_images}[split] if is_runs else None
        return chosen or split_size(self.data, split)

    @property
    def input(self) -> str:
        """A sentence on what the network's input is."""
        return self.given.describe(self.data)

    def accuracy(self, split: Literal["train", "val"], num_images: int | None) -> "Accuracy | None":
        """Return how accuracy is measured over the images of `loader`; None: top-1, by their labels."""
        return None

    def check_outputs(self, images: "Loader", advice: str) -> None:
        """Raise UserError, which ends with `advice`, if the network does not tell the data's classes."""
        import torch

        with torch.no_grad():
            outputs = tuple(self.network.eval()(next(iter(images)).images_NCHW).shape[1:])
        if outputs != (self.data.num_classes,):
            classes = f"outputs of shape {outputs}, and the data {self.data.num_classes} classes"
            raise UserError(f"{self.purpose}: the network has {classes}{advice}")


def subject_of(
    purpose: str,
    *,
    checkpoint: Path | None,
    soup: Sequence[Path],
    alpha: float | None,
    weights: Weights | None,
    model: str | None,
    arch: str | None,
    norm: str | None,
    data: str | None,
    image_size: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    num_classes: int | None,
    split: str,
    accuracy_advice: str | None,
    on_cpu: bool = False,
    wanted: Collection[str] = (),
) -> Subject:
    """Return what the options of `probe_options` describe, on a GPU if there is one, unless `on_cpu`.

    `accuracy_advice`: the end of the message if the network has not the data's classes, which accuracy needs;
    None: accuracy is not measured. `wanted`: results beside the profile. Raises UserError, led by `purpose`,
    where the options contradict each other, and for names and files that lead to nothing.
    """
    if model is not None and arch is not None:
        raise UserError(f"{purpose}: --model and --arch both name the network; give one of them")
    run = run_of(checkpoint)
    if checkpoint is not None and run is not None and run.task.kind == "detection":
        from jobs.commands.probe_detector import detector_subject

        others: dict[str, Any] = {"model": model, "arch": arch, "norm": norm, "data": data}
        others |= {"image_size": image_size, "mean": mean, "std": std, "num_classes": num_classes}
        return detector_subject(run, purpose, checkpoint, soup, alpha, weights, set(wanted), others)
    model_spec, norm_spec = None, BatchNormSpec() if norm is None else read_norm(norm)
    if model is not None:
        data_spec = choose_data(run, data, image_size, None, split, purpose=purpose)
        title = f"{model} {norm_spec.label}"
    else:
        options = (arch, norm, data, image_size, num_classes, split)
        model_spec, data_spec = choose_specs(run, *options, purpose=purpose)
        title = f"{model_spec.arch} {model_spec.norm.label}"
    if accuracy_advice is not None and num_classes not in (None, data_spec.num_classes):
        needed = f"a network of the data's {data_spec.num_classes} classes, not {num_classes}"
        raise UserError(f"{purpose}: accuracy needs {needed}{accuracy_advice}")

    with collecting_no_garbage():
        import torch

        from suite.models import build_model, chosen_sites, convert, named_model

    torch.manual_seed(0)
    if model_spec is not None:
        network = build_model(model_spec)
    else:
        from jobs.commands.probe_tables import by_role

        assert model is not None
        network = named_model(model, num_classes or data_spec.num_classes)
        title = f"{title}{by_role(chosen_sites(network, norm_spec))}"
        network = convert(network, norm_spec)
    given = preprocessing_of(network, mean, std)
    if run is None:
        size = image_size or given.image_size or data_spec.image_size
        data_spec = choose_data(
            run,
            data,
            size,
            data_spec.num_classes,
            split,
            crop_share=given.crop_share,
            interpolation=given.usable_interpolation,
            purpose=purpose,
        )
    taken = None
    if checkpoint is not None:
        taken = put_checkpoints(network, [checkpoint, *soup], alpha, weights)
    elif soup or alpha is not None:
        raise UserError("--soup and --alpha average checkpoints: give --checkpoint too")
    elif weights is not None:
        raise UserError("--weights chooses among the weights of a checkpoint: give --checkpoint too")
    device = torch.device("cuda" if torch.cuda.is_available() and not on_cpu else "cpu")
    is_average = taken is not None and is_averaged(taken, soup)
    return Subject(network.to(device), data_spec, given, taken, title, run, purpose, device, is_average)


def is_averaged(taken: str, soup: Sequence[Path]) -> bool:
    """Return whether weights are an average of several networks'. `taken`: what `put_checkpoints` says."""
    from suite.models.weights import AVERAGE_TITLES

    return len(soup) > 0 or any(title in taken for title in AVERAGE_TITLES)


def put_checkpoints(
    network: "nn.Module", paths: Sequence[Path], alpha: float | None, weights: Weights | None
) -> str:
    """Put a checkpoint, or an average of several, into the network, and say what was taken of which."""
    from suite.models import put_weights, read_weights
    from suite.shift.averaged import interpolated, soup

    if alpha is not None and len(paths) != 2:
        raise UserError(f"--alpha lies between two checkpoints: give one --soup, not {len(paths) - 1}")
    if len(set(paths)) != len(paths):
        raise UserError("--soup: a checkpoint is given twice")
    read = {path: read_weights(network, path, None if weights is None else weights.value) for path in paths}
    states = {str(path): state for path, (state, _) in read.items()}
    parts = [f"{path}: {taken}" for path, (_, taken) in read.items()]
    if len(paths) == 1:
        put_weights(network, states[str(paths[0])], paths[0])
        return read[paths[0]][1]
    if alpha is not None:
        put_weights(network, interpolated(states, alpha), paths[0])
        return f"{1 - alpha:g} of {parts[0]}; {alpha:g} of {parts[1]}"
    put_weights(network, soup(states), paths[0])
    return f"mean of {len(paths)} checkpoints: {'; '.join(parts)}"
