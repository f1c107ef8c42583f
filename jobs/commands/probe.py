"""`shiftbench probe`: the estimation shift of a network that is trained already."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Option, echo

from suite.errors import UserError


class Split(StrEnum):
    """The two folders of a data set."""

    TRAIN = "train"
    VAL = "val"


CHECKPOINT = Option(help="A state dict, or a checkpoint of a run, whose network and data are the defaults.")
MODEL = Option(help="Any network: torchvision:NAME, timm:NAME, or module:function, also from this folder.")
ARCH = Option(help="An architecture of the suite; without a checkpoint it has its initial weights.")
NORM = Option(help="Norms as YAML, such as '{kind: xbn, position: p2}'; default: BN.")
DATA = Option(help="A known data set, or a folder that holds train/ and val/; default: the run's.")
IMAGE_SIZE = Option(help="Side of the network's input, pixels; default: the run's, else 224.")
NUM_CLASSES = Option(min=1, help="Outputs of the network; default: the classes of the data.")
SPLIT = Option(help="The images to probe on; they are resized and centre-cropped.")
PER_BATCH = Option(
    min=1,
    help="Images behind the batch statistics of --attribute and the others; default: the run's, or 64.",
)
MAX_IMAGES = Option(
    min=1, help="Probe on this many images, spread over the split; default: the run's, else all."
)
ATTRIBUTE = Option("--attribute", help="Split each layer's shift into its own and the inherited. Two passes.")
ORIGINS = Option("--origins", help="Find the layer that starts it; needs train/. One pass for each BN layer.")
REMEDIES = Option("--remedies", help="Measure what helps without training: accuracy and shift. 7 passes.")
PERTURB = Option("--perturb", help="Measure accuracy under noise on the estimates. 41 passes.")
AS_JSON = Option("--json", help="Print the results as JSON.")


def probe(
    checkpoint: Annotated[Path | None, CHECKPOINT] = None,
    model: Annotated[str | None, MODEL] = None,
    arch: Annotated[str | None, ARCH] = None,
    norm: Annotated[str | None, NORM] = None,
    data: Annotated[str | None, DATA] = None,
    image_size: Annotated[int | None, IMAGE_SIZE] = None,
    num_classes: Annotated[int | None, NUM_CLASSES] = None,
    split: Annotated[Split, SPLIT] = Split.VAL,
    images_per_batch: Annotated[int | None, PER_BATCH] = None,
    max_images: Annotated[int | None, MAX_IMAGES] = None,
    attribute: Annotated[bool, ATTRIBUTE] = False,
    origins: Annotated[bool, ORIGINS] = False,
    remedies: Annotated[bool, REMEDIES] = False,
    perturb: Annotated[bool, PERTURB] = False,
    as_json: Annotated[bool, AS_JSON] = False,
) -> None:
    """Measure the estimation shift of a network, layer by layer, in one inference pass."""
    from jobs.commands import probe_tables as tables
    from jobs.commands.probe_measures import LEAVE_OUT, measure
    from jobs.commands.probe_target import choose_data, choose_specs, read_norm, run_of
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
    found = measure(
        network,
        data_spec,
        split.value,
        num_images,
        images_per_batch,
        attribute=attribute,
        origins=origins,
        remedies=remedies,
        perturb=perturb,
    )
    if as_json:
        echo(json.dumps(tables.as_plain(found), indent=1, allow_nan=False))
    else:
        tables.print_all(found, f"{title} on {data_spec.name} {split.value}")
