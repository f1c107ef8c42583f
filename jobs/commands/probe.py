"""`shiftbench probe`: the estimation shift of a network that is trained already."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Split(StrEnum):
    """The two folders of a data set."""

    TRAIN = "train"
    VAL = "val"


def probe(
    checkpoint: Annotated[
        Path | None, typer.Option(help="A state dict, or a checkpoint of a run (its folder tells the rest).")
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
    num_classes: Annotated[int | None, typer.Option(help="For an ImageFolder of your own.")] = None,
    split: Annotated[Split, typer.Option(help="Images are resized and centre-cropped.")] = Split.VAL,
    images_per_batch: Annotated[int, typer.Option(min=1)] = 64,
    max_images: Annotated[
        int | None,
        typer.Option(min=1, help="Probe on so many, spread over the split; default: the run's, else all."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the profile as JSON.")] = False,
) -> None:
    """Measure the estimation shift of a network, layer by layer, in one inference pass."""
    from jobs.commands.probing import as_plain, choose_specs, print_profile, run_of

    run = run_of(checkpoint)
    model_spec, data_spec = choose_specs(run, arch, norm, data, image_size, num_classes)
    num_images = max_images or (data_spec.val_images if split is Split.VAL else None)

    import torch

    from suite.data import folder_loader
    from suite.models import build_model, load_weights
    from suite.shift import probe as measure

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(model_spec)
    if checkpoint is not None:
        load_weights(model, checkpoint)
    loader = folder_loader(
        data_spec, split.value, images_per_batch=images_per_batch, device=device, num_images=num_images
    )
    try:
        profile = measure(model.to(device), loader)
    finally:
        loader.close()
    if as_json:
        typer.echo(json.dumps(as_plain(profile), indent=1))
    else:
        print_profile(profile, f"{model_spec.arch} {model_spec.norm.label} on {data_spec.name} {split.value}")
