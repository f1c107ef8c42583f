"""`shiftbench probe`: the estimation shift of a network that is trained already."""

import json
from collections.abc import Callable, Set
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option, echo

from jobs.commands.probe_options import (
    ALPHA,
    ARCH,
    AS_JSON,
    CHECKPOINT,
    DATA,
    IMAGE_SIZE,
    MEAN,
    MODEL,
    NORM,
    NUM_CLASSES,
    SOUP,
    STD,
    WEIGHTS,
    Split,
    Weights,
)

if TYPE_CHECKING:
    from jobs.commands.probe_network import Subject
    from jobs.commands.probe_tables import Measured

TRAINING_IMAGES = 2048  # for exact statistics and replays; a run takes as many by default
LEAVE_OUT = "; leave out --remedies, --origins, --perturb, --re-estimate, --folded and --int8"
# What needs no classes of the data, and what needs images of train/.
WITHOUT_ACCURACY = {"attribution"}
ON_TRAINING_IMAGES = {"origins", "remedies", "re_estimation", "deployment"}


SPLIT = Option(help="The images to probe on; they are resized and centre-cropped.")
PER_BATCH = Option(min=1, help="Images behind a batch statistic; default: the run's, or 64.")
MAX_IMAGES = Option(min=1, help="Probe on this many images of the split; default: the run's, else all.")
ATTRIBUTE = Option("--attribute", help="Split each layer's shift into its own and the inherited. Two passes.")
ORIGINS = Option("--origins", help="Find the layer that starts it; needs train/. One pass for each BN layer.")
REMEDIES = Option("--remedies", help="Measure what helps without training: accuracy and shift. 8 passes.")
PERTURB = Option("--perturb", help="Measure accuracy under noise on the estimates. 41 passes.")
RE_ESTIMATE = Option("--re-estimate", help="Compare with statistics re-estimated on train/; on with --soup.")
FOLDED = Option("--folded", help="Fold the norms into the layers before them: accuracy, shift frozen in.")
INT8 = Option("--int8", help="As --folded, and quantised to int8 too; on the CPU.")


def probe(
    checkpoint: Annotated[Path | None, CHECKPOINT] = None,
    soup: Annotated[list[Path] | None, SOUP] = None,
    alpha: Annotated[float | None, ALPHA] = None,
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
    re_estimate: Annotated[bool, RE_ESTIMATE] = False,
    folded: Annotated[bool, FOLDED] = False,
    int8: Annotated[bool, INT8] = False,
    as_json: Annotated[bool, AS_JSON] = False,
) -> None:
    """Measure the estimation shift of a network, layer by layer, in one inference pass."""
    from jobs.commands import probe_tables as tables
    from jobs.commands.probe_network import subject_of

    choices = {"attribution": attribute, "origins": origins, "remedies": remedies, "perturbation": perturb}
    choices |= {"re_estimation": re_estimate or bool(soup), "deployment": folded or int8}
    wanted = {name for name, is_wanted in choices.items() if is_wanted}
    subject = subject_of(
        "probe",
        checkpoint=checkpoint,
        soup=soup or (),
        alpha=alpha,
        weights=weights,
        model=model,
        arch=arch,
        norm=norm,
        data=data,
        image_size=image_size,
        mean=mean,
        std=std,
        num_classes=num_classes,
        split=split.value,
        accuracy_advice=LEAVE_OUT if wanted - WITHOUT_ACCURACY else None,
        on_cpu=int8,
        wanted=wanted,
    )
    from suite.shift.layers import has_estimates

    run = subject.run
    if images_per_batch is None:
        images_per_batch = run.batch.norm if run is not None and wanted - {"perturbation"} else 64
    num_images = max_images or (subject.data.val_images if split == "val" else None)
    if not re_estimate and not has_estimates(subject.network):
        wanted.discard("re_estimation")  # a soup of networks without BN
    found = _measure(subject, split, num_images, images_per_batch, wanted, int8)
    if as_json:
        echo(json.dumps(tables.as_plain(found), indent=1, allow_nan=False))
    else:
        tables.print_all(found, f"{subject.title} on {subject.data.name} {split.value}")


def _measure(
    subject: "Subject", split: Split, count: int | None, per_batch: int, wanted: Set[str], int8: bool
) -> "Measured":
    """Measure a network over `count` images of a split (None: all).

    `wanted`: results of `suite.shift` beside the profile. Raises UserError as `suite.shift` does, and for
    accuracy on other classes than the network's.
    """
    from jobs.commands.probe_tables import Measured
    from suite import shift
    from suite.train.arithmetic import measuring

    network = subject.network
    num_training = min(TRAINING_IMAGES, subject.num_images("train")) if wanted & ON_TRAINING_IMAGES else 0
    images = subject.loader(split.value, count, per_batch)
    accuracy = subject.accuracy(split.value, count)
    training = subject.loader("train", num_training, per_batch) if num_training else None
    with closing(images), closing(training) if training is not None else nullcontext():
        if wanted - WITHOUT_ACCURACY:
            subject.check_outputs(images, LEAVE_OUT)
        in_training = () if training is None else training
        measures: dict[str, Callable[[], Any]] = {
            "profile": lambda: shift.probe(network, images),
            "attribution": lambda: shift.attribute(network, images),
            "origins": lambda: shift.find_origins(network, images, training_batches=training),
            "remedies": lambda: shift.remedies(network, images, training, accuracy=accuracy),
            "perturbation": lambda: shift.perturb(network, images),
            "re_estimation": lambda: shift.re_estimate(network, images, in_training),
            "deployment": lambda: shift.deploy(network, images, in_training, int8=int8),
        }
        with measuring(subject.run):
            found = {name: run() for name, run in measures.items() if name in {"profile", *wanted}}
        bad_images = images.bad_images | (training.bad_images if training is not None else {})
        return Measured(found, num_training, bad_images, subject.input, subject.taken)
