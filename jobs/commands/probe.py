"""`shiftbench probe`: the estimation shift of a network that is trained already."""

import json
from collections.abc import Callable, Set
from contextlib import closing, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Option, echo

from suite.errors import UserError
from suite.large_imports import collecting_no_garbage

if TYPE_CHECKING:
    from torch import nn

    from jobs.commands.probe_input import Preprocessing
    from jobs.commands.probe_tables import Measured
    from suite.data import Loader
    from suite.experiment import DataSpec

TRAINING_IMAGES = 2048  # for exact statistics and replays; a run takes as many by default
LEAVE_OUT = "leave out --remedies, --origins and --perturb"


class Weights(StrEnum):
    """Which weights of a checkpoint that keeps a moving average too."""

    RAW = "raw"
    EMA = "ema"


class Split(StrEnum):
    """The two folders of a data set."""

    TRAIN = "train"
    VAL = "val"


CHECKPOINT = Option(help="A state dict, or a checkpoint of a run, whose network and data are the defaults.")
WEIGHTS = Option(help="Of a checkpoint with both: raw weights, or their moving average (default).")
MODEL = Option(help="Any network: torchvision:NAME, timm:NAME, or module:function, also from this folder.")
ARCH = Option(help="An architecture of the suite; without a checkpoint it has its initial weights.")
NORM = Option(help="Norms as YAML, such as '{kind: xbn, position: p2}'; default: BN.")
DATA = Option(help="A known data set, or a folder that holds train/ and val/; default: the run's.")
IMAGE_SIZE = Option(help="Side of the network's input, pixels; default: the run's, the network's, or 224.")
MEAN = Option(help="Channel means of the network's input; default: the network's own, else ImageNet's.")
STD = Option(help="Channel standard deviations of the network's input; default: as for --mean.")
NUM_CLASSES = Option(min=1, help="Outputs of the network; default: the classes of the data.")
SPLIT = Option(help="The images to probe on; they are resized and centre-cropped.")
PER_BATCH = Option(min=1, help="Images behind a batch statistic; default: the run's, or 64.")
MAX_IMAGES = Option(min=1, help="Probe on this many images of the split; default: the run's, else all.")
ATTRIBUTE = Option("--attribute", help="Split each layer's shift into its own and the inherited. Two passes.")
ORIGINS = Option("--origins", help="Find the layer that starts it; needs train/. One pass for each BN layer.")
REMEDIES = Option("--remedies", help="Measure what helps without training: accuracy and shift. 8 passes.")
PERTURB = Option("--perturb", help="Measure accuracy under noise on the estimates. 41 passes.")
AS_JSON = Option("--json", help="Print the results as JSON.")


def probe(
    checkpoint: Annotated[Path | None, CHECKPOINT] = None,
    weights: Annotated[Weights | None, WEIGHTS] = None,
    model: Annotated[str | None, MODEL] = None,
    arch: Annotated[str | None, ARCH] = None,
    norm: Annotated[str | None, NORM] = None,
    data: Annotated[str | None, DATA] = None,
    image_size: Annotated[int | None, IMAGE_SIZE] = None,
    mean: Annotated[tuple[float, float, float] | None, MEAN] = None,
    std: Annotated[tuple[float, float, float] | None, STD] = None,
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
    from jobs.commands.probe_input import preprocessing_of
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
    choices = {"attribution": attribute, "origins": origins, "remedies": remedies, "perturbation": perturb}
    wanted = {name for name, is_wanted in choices.items() if is_wanted}
    if wanted - {"attribution"} and num_classes not in (None, data_spec.num_classes):
        needed = f"a network of the data's {data_spec.num_classes} classes, not {num_classes}"
        raise UserError(f"probe: accuracy needs {needed}; {LEAVE_OUT}")

    with collecting_no_garbage():
        import torch

        from suite.models import build_model, chosen_sites, convert, load_weights, named_model

    torch.manual_seed(0)
    if model_spec is not None:
        network = build_model(model_spec)
    else:
        assert model is not None
        network = named_model(model, num_classes or data_spec.num_classes)
        title = f"{title}{tables.by_role(chosen_sites(network, norm_spec))}"
        network = convert(network, norm_spec)
    given = preprocessing_of(network, mean, std)
    if image_size is None and run is None and given.image_size is not None:
        data_spec = choose_data(run, data, given.image_size, data_spec.num_classes, split.value, given.resize)
    taken = None
    if checkpoint is not None:
        taken = load_weights(network, checkpoint, None if weights is None else weights.value)
    elif weights is not None:
        raise UserError("--weights chooses among the weights of a checkpoint: give --checkpoint too")
    if images_per_batch is None:
        images_per_batch = run.batch.norm if run is not None and wanted - {"perturbation"} else 64
    num_images = max_images or (data_spec.val_images if split == "val" else None)
    found = _measure(network, data_spec, given, taken, split, num_images, images_per_batch, wanted)
    if as_json:
        echo(json.dumps(tables.as_plain(found), indent=1, allow_nan=False))
    else:
        tables.print_all(found, f"{title} on {data_spec.name} {split.value}")


def _measure(
    network: "nn.Module",
    data: "DataSpec",
    given: "Preprocessing",
    taken: str | None,
    split: Split,
    count: int | None,
    per_batch: int,
    wanted: Set[str],
) -> "Measured":
    """Measure `network` over `count` images of a split (None: all), on a GPU if there is one.

    `taken` says which weights it has. `wanted`: results of `suite.shift` beside the profile. Raises UserError
    as `suite.shift` does, and for accuracy on other classes than the network's.
    """
    import torch

    from jobs.commands.probe_tables import Measured
    from suite import shift
    from suite.data import folder_loader, split_size
    from suite.data.renormalise import Renormalised

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device)
    # Shuffled: a batch of a single class would have the statistics of that class.
    options: dict[str, Any] = {"images_per_batch": per_batch, "device": device, "shuffle_seed": 0}
    num_training = min(TRAINING_IMAGES, split_size(data, "train")) if wanted & {"origins", "remedies"} else 0

    def loader_of(name: Literal["train", "val"], num_images: int | None) -> "Loader":
        loader = folder_loader(data, name, num_images=num_images, **options)
        return loader if given.is_imagenets else Renormalised(loader, given.mean, given.std)

    images = loader_of(split.value, count)
    training = loader_of("train", num_training) if num_training else None
    with closing(images), closing(training) if training is not None else nullcontext():
        if wanted - {"attribution"}:
            with torch.no_grad():
                outputs = tuple(network.eval()(next(iter(images)).images_NCHW).shape[1:])
            if outputs != (data.num_classes,):
                classes = f"outputs of shape {outputs}, and the data {data.num_classes} classes"
                raise UserError(f"probe: the network has {classes}; {LEAVE_OUT}")
        measures: dict[str, Callable[[], Any]] = {
            "profile": lambda: shift.probe(network, images),
            "attribution": lambda: shift.attribute(network, images),
            "origins": lambda: shift.find_origins(network, images, training_batches=training),
            "remedies": lambda: shift.remedies(network, images, training),
            "perturbation": lambda: shift.perturb(network, images),
        }
        found = {name: run() for name, run in measures.items() if name in {"profile", *wanted}}
        bad_images = images.bad_images | (training.bad_images if training is not None else {})
        return Measured(found, num_training, bad_images, given.describe(data.image_size), taken)
