"""`shiftbench probe`: the estimation shift of a network that is trained already."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from suite.errors import UserError


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
        bool,
        typer.Option("--origins", help="Which layer starts it; needs train/ too. A pass for each BN layer."),
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
    from jobs.commands.probe_measures import LEAVE_OUT, Wanted, measure
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
        raise UserError(f"probe: accuracy needs a network of {classes}; {LEAVE_OUT}")

    import torch

    from suite.models import build_model, convert, load_weights, named_model

    torch.manual_seed(0)
    if model_spec is not None:
        network = build_model(model_spec)
    else:
        assert model is not None
        network = convert(named_model(model, num_classes or data_spec.num_classes), norm_spec)
    if checkpoint is not None:
        load_weights(network, checkpoint)
    if images_per_batch is None:
        needs_batches = attribute or origins or remedies
        images_per_batch = run.batch.norm if run is not None and needs_batches else 64
    num_images = max_images or (data_spec.val_images if split is Split.VAL else None)
    wanted = Wanted(attribute, origins, remedies, perturb)
    found = measure(network, data_spec, wanted, split.value, num_images, images_per_batch)
    if as_json:
        typer.echo(json.dumps(tables.as_plain(found), indent=1, allow_nan=False))
    else:
        tables.print_all(found, f"{title} on {data_spec.name} {split.value}")
