"""`shiftbench probe`: the estimation shift of a network that is trained already."""

import functools
import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from suite.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from suite.data import Loader

# Behind PreciseBN's statistics and the replays; as many as a run takes by default.
TRAINING_IMAGES = 2048
_LEAVE_OUT = "leave out --remedies, --origins and --perturb"


class Split(StrEnum):
    """The two folders of a data set."""

    TRAIN = "train"
    VAL = "val"


def probe(
    checkpoint: Annotated[
        Path | None, typer.Option(help="A state dict, or a checkpoint of a run (its folder tells the rest).")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Any network: torchvision:NAME, timm:NAME, or your own as module:function, from here too."
        ),
    ] = None,
    arch: Annotated[
        str | None, typer.Option(help="Architecture; without a checkpoint its initial weights.")
    ] = None,
    norm: Annotated[
        str | None, typer.Option(help="Norms as YAML, such as '{kind: xbn, position: p2}'; default: BN.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="A known data set, or an ImageFolder that holds train/ and val/; default: the run's."
        ),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the network's input, pixels; default: the run's, else 224.")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(min=1, help="Outputs of the network; default: the classes of the data.")
    ] = None,
    split: Annotated[Split, typer.Option(help="Images are resized and centre-cropped.")] = Split.VAL,
    images_per_batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Behind the batch statistics of --attribute and the others; default: the run's norm batch, "
            "else 64.",
        ),
    ] = None,
    max_images: Annotated[
        int | None,
        typer.Option(min=1, help="Probe on so many, spread over the split; default: the run's, else all."),
    ] = None,
    attribute: Annotated[
        bool,
        typer.Option("--attribute", help="Split each layer's shift: its own, and inherited. Two passes."),
    ] = False,
    origins: Annotated[
        bool, typer.Option("--origins", help="Which layer starts it. A pass for each BN layer.")
    ] = False,
    remedies: Annotated[
        bool, typer.Option("--remedies", help="Accuracy and shift of what helps without training. 7 passes.")
    ] = False,
    perturb: Annotated[
        bool, typer.Option("--perturb", help="Accuracy under noise on the estimates. 41 passes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was measured as JSON.")] = False,
) -> None:
    """Measure the estimation shift of a network, layer by layer, in one inference pass."""
    from jobs.commands import probe_tables as tables
    from jobs.commands.probing import choose_data, choose_specs, read_norm, run_of
    from suite.experiment import BatchNormSpec

    if model is not None and arch is not None:
        raise UserError("probe: --model and --arch both name the network; give one of them")
    run = run_of(checkpoint)
    model_spec, norm_spec = None, BatchNormSpec() if norm is None else read_norm(norm)
    if model is not None:
        data_spec = choose_data(run, data, image_size, None, split.value)
        title = f"{model} {norm_spec.label}"
    else:
        model_spec, data_spec = choose_specs(run, arch, norm, data, image_size, num_classes, split.value)
        title = f"{model_spec.arch} {model_spec.norm.label}"
    if (remedies or origins or perturb) and num_classes not in (None, data_spec.num_classes):
        classes = f"the data's {data_spec.num_classes} classes, not {num_classes}"
        raise UserError(f"probe: accuracy needs a network of {classes}; {_LEAVE_OUT}")

    import torch

    from suite import shift
    from suite.data import folder_loader, split_size
    from suite.models import build_model, convert, load_weights, named_model

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if model_spec is not None:
        network = build_model(model_spec)
    else:
        assert model is not None
        network = convert(named_model(model, num_classes or data_spec.num_classes), norm_spec)
    if checkpoint is not None:
        load_weights(network, checkpoint)
    network = network.to(device)
    if images_per_batch is None:
        needs_batches = attribute or origins or remedies
        images_per_batch = run.batch.norm if run is not None and needs_batches else 64
    num_training = min(TRAINING_IMAGES, split_size(data_spec, "train")) if remedies else 0
    # Shuffled: batches of one class would have the statistics of that class.
    load = functools.partial(
        folder_loader, data_spec, images_per_batch=images_per_batch, device=device, shuffle_seed=0
    )
    num_images = max_images or (data_spec.val_images if split is Split.VAL else None)
    images = load(split.value, num_images=num_images)
    training = load("train", num_images=num_training) if remedies else None
    try:
        if remedies or origins or perturb:
            _check_outputs(network, images, data_spec.num_classes)
        profile = shift.probe(network, images)
        attribution = shift.attribute(network, images) if attribute else None
        found = shift.find_origins(network, images) if origins else None
        table = shift.remedies(network, images, training) if remedies else None
        noise = shift.perturb(network, images) if perturb else None
    finally:
        images.close()
        if training is not None:
            training.close()
    if as_json:
        plain = tables.as_plain(profile)
        parts = {"attribution": attribution, "origins": found, "remedies": table, "perturbation": noise}
        for name, result in parts.items():
            if result is not None:
                plain[name] = tables.rows(result.to_frame())
        typer.echo(json.dumps(plain, indent=1))
        return
    tables.print_profile(profile, f"{title} on {data_spec.name} {split.value}")
    if attribution is not None:
        tables.print_attribution(attribution)
    if found is not None:
        tables.print_origins(found)
    if table is not None:
        tables.print_remedies(table, num_training)
    if noise is not None:
        tables.print_perturbation(noise)


def _check_outputs(network: "nn.Module", images: "Loader", num_classes: int | None) -> None:
    """Raises UserError where accuracy on these data would mean nothing."""
    import torch

    with torch.no_grad():
        outputs = network.eval()(next(iter(images)).images_NCHW)
    if outputs.shape[1:] != (num_classes,):
        raise UserError(
            f"probe: the network has outputs of shape {tuple(outputs.shape[1:])}, and the data {num_classes} "
            f"classes; {_LEAVE_OUT}"
        )
