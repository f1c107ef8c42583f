"""`shiftbench diagnose`: why a trained network is worse in evaluation than in training."""

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
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
    Weights,
)

if TYPE_CHECKING:
    from jobs.commands.probe_network import Subject
    from suite.shift import Diagnosis

DEFAULT_IMAGES = 2048  # of each split: differences of about one point show
DEFAULT_BATCH = 64

PER_BATCH = Option(min=2, help="Images behind a batch statistic in training; default: the run's, or 64.")
TRAINING_IMAGES = Option(min=1, help="Images of train/: statistics, and accuracy in training.")
EVALUATION_IMAGES = Option(min=1, help="Images of val/, on which remedies are judged.")
DROP_LAST = Option("--drop-last", help="Training left an incomplete last batch out, as runs of the suite do.")
OUT = Option("--out", "-o", help="Folder for the page, index.html.")


def diagnose(
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
    images_per_batch: Annotated[int | None, PER_BATCH] = None,
    training_images: Annotated[int, TRAINING_IMAGES] = DEFAULT_IMAGES,
    evaluation_images: Annotated[int, EVALUATION_IMAGES] = DEFAULT_IMAGES,
    drop_last: Annotated[bool, DROP_LAST] = False,
    out: Annotated[Path, OUT] = Path("out/diagnose"),
    as_json: Annotated[bool, AS_JSON] = False,
) -> None:
    """Say why evaluation is worse than training: the cause, what it costs, and what its remedy gives back.

    The causes are those of BN's estimates; overfitting is reported separately. Prints the findings, and
    writes a page.
    """
    from jobs.commands.diagnose_tables import print_diagnosis
    from jobs.commands.probe_network import subject_of
    from jobs.commands.probe_tables import plain_row
    from reports.write.diagnosis_page import write_diagnosis

    subject = subject_of(
        "diagnose",
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
        split="val",
        accuracy_advice="",
    )
    run = subject.run
    per_batch = images_per_batch or (DEFAULT_BATCH if run is None else run.batch.norm)
    found, bad_images = _diagnosed(
        subject, per_batch, training_images, evaluation_images, drop_last or run is not None
    )
    about = {
        "network": subject.title,
        "data": subject.data.name,
        "input": subject.input,
        "weights": subject.taken,
        "images_per_batch": per_batch,
        "bad_images": bad_images,
    }
    plain = {**about, **found.to_dict()}
    plain["findings"] = [{**one, "evidence": plain_row(one["evidence"])} for one in plain["findings"]]
    page = write_diagnosis(plain, out)
    if as_json:
        echo(json.dumps(plain, indent=1, allow_nan=False, default=str))
        return
    print_diagnosis(found, about)
    Console().print(f"page: {page}", highlight=False, markup=False, soft_wrap=True)


def _diagnosed(
    subject: "Subject", per_batch: int, num_training: int, num_evaluation: int, drop_last: bool
) -> tuple["Diagnosis", dict[str, str]]:
    """Return the diagnosis, and the files that could not be read. Raises UserError as `suite.shift` does."""
    from suite.shift import diagnose as diagnosis_of
    from suite.train.arithmetic import measuring

    count = epoch_like(subject.num_images("train"), num_training, per_batch, drop_last)
    training = subject.loader("train", count, per_batch)
    evaluation = subject.loader("val", min(num_evaluation, subject.num_images("val")), per_batch)
    with closing(training), closing(evaluation):
        subject.check_outputs(evaluation, "")
        is_average = subject.is_average
        with measuring(subject.run):
            found = diagnosis_of(subject.network, training, evaluation, averaged_weights=is_average)
        return found, training.bad_images | evaluation.bad_images


def epoch_like(size: int, most: int, per_batch: int, drop_last: bool) -> int:
    """Return how many of `size` training images to take, so that their last batch is as an epoch's."""
    whole = min(size, most) // per_batch * per_batch
    rest = 0 if drop_last else size % per_batch
    return whole + rest if whole + rest <= size and whole else min(size, most)
