"""Decides which network and which data `shiftbench probe` and `diagnose` measure. No torch."""

import math
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from jobs.checks import read_run
from suite.data.index import class_names
from suite.data.packs import is_pack, open_pack
from suite.errors import UserError
from suite.experiment import NUM_CLASSES, DataSpec, ModelSpec, NormSpec, Run
from suite.specs.base import Spec
from suite.specs.norm import norm_spec
from suite.specs.source_table import SOURCES
from suite.wording import explain, shown
from suite.yaml_values import YamlError, parse

S = TypeVar("S", bound=Spec)
FOLDERS = "train/ and val/"


def choose_specs(
    run: Run | None,
    arch: str | None,
    norm: str | None,
    data: str | None,
    image_size: int | None,
    num_classes: int | None,
    split: str = "val",
    *,
    purpose: str = "probe",
) -> tuple[ModelSpec, DataSpec]:
    """Return the model and the data: those of the checkpoint's run, changed as the options say.

    Raises UserError when they are incomplete or contradict each other, and when an option has no effect.
    """
    if run is None and (arch is None or data is None):
        raise UserError(f"{purpose}: give --arch and --data, --model and --data, or a run's --checkpoint")
    if norm is not None and arch is None:
        raise UserError("--norm: the checkpoint's run has its own norms; give --arch too, or leave it out")
    data_spec = choose_data(run, data, image_size, num_classes, split, purpose=purpose)
    if arch is None:
        assert run is not None
        return run.model, data_spec
    norms = {} if norm is None else {"norm": read_norm(norm)}
    fields = {"arch": arch, "num_classes": data_spec.num_classes, **norms}
    return _validated(ModelSpec, fields, purpose), data_spec


def choose_data(
    run: Run | None,
    data: str | None,
    image_size: int | None,
    num_classes: int | None,
    split: str,
    *,
    crop_share: float | None = None,
    interpolation: str | None = None,
    purpose: str = "probe",
) -> DataSpec:
    """Return the run's data, changed as the options say. The classes of an image folder are counted.

    `crop_share`: `image_size` as a share of an image's shorter side before the central crop; None: as usual.
    """
    if run is None and data is None:
        raise UserError(f"{purpose}: --data is missing: a known data set, or a folder that holds {FOLDERS}")
    # Without a run there is no other number that the loader's pixels would have to fit.
    fields: dict[str, Any] = run.data.model_dump() if run is not None else {"loader": "auto"}
    if data is not None:
        name, path = (Path(data).resolve().name, data) if Path(data).is_dir() else (data, None)
        if path is None and data not in SOURCES and data != fields.get("name"):
            known = ", ".join(SOURCES)
            raise UserError(
                f"{purpose}: --data {shown(data)}: no such folder, and no known data set; expected a folder "
                f"that holds {FOLDERS}, or one of {known}"
            )
        if name != fields.get("name"):  # the run's numbers of images are those of its own data set
            fields |= {"train_images": None, "val_images": None}
        is_runs_own = name == fields.get("name")
        if path is not None and name in SOURCES and (SOURCES[name].generator or not is_runs_own):
            name = f"{name} (folder)"  # whatever it is called, it is a folder of images
        fields |= {"name": name, "path": path}
        if name in NUM_CLASSES:
            fields |= {"num_classes": None}
        elif path is not None and fields.get("num_classes") is None and num_classes is None:
            num_classes = _count_classes(Path(path) / split)
    if image_size is not None:
        fields |= {
            "image_size": image_size,
            "eval_resize": crop_share and math.floor(image_size / crop_share),
        }
    if interpolation is not None:
        fields |= {"interpolation": interpolation}
    if num_classes is not None:
        fields |= {"num_classes": num_classes}
    return _validated(DataSpec, fields, purpose)


def read_norm(norm: str) -> NormSpec:
    """Return the norms that an option's YAML describes. Raises UserError when it describes none."""
    try:
        return norm_spec(parse(norm))
    except YamlError as error:
        raise UserError(f"--norm {norm!r}: {error}") from None


def _count_classes(root: Path) -> int:
    if is_pack(root.parent):
        return len(open_pack(root.parent).classes)
    count = len(class_names(root)) if root.is_dir() else 0
    if count < 2:
        wanted = f"--data is a folder of {root.name}/CLASS/*.jpg with two classes or more"
        raise UserError(f"{root}: {count} class folders; {wanted}")
    return count


def _validated(kind: type[S], fields: dict[str, Any], purpose: str) -> S:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise UserError(f"{purpose}: {explain(error, kind)}") from None


def run_of(checkpoint: Path | None) -> Run | None:
    """Return the run in whose folder a checkpoint lies, or None."""
    if checkpoint is None or not (checkpoint.parent.parent / "run.json").exists():
        return None
    return read_run(checkpoint.parent.parent)
