"""`shiftbench probe`: the estimation shift of a network that is trained already."""

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from jobs.checks import read_run
from suite.config import explain
from suite.errors import UserError
from suite.experiment import NUM_CLASSES, DataSpec, ModelSpec, Run

if TYPE_CHECKING:
    from suite.shift import ShiftProfile


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
    run = _run_of(checkpoint)
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
        typer.echo(json.dumps(_as_json(profile), indent=1))
    else:
        _print(profile, f"{model_spec.arch} {model_spec.norm.label} on {data_spec.name} {split.value}")


def choose_specs(
    run: Run | None,
    arch: str | None,
    norm: str | None,
    data: str | None,
    image_size: int | None,
    num_classes: int | None,
) -> tuple[ModelSpec, DataSpec]:
    """The model and data: those of the run that wrote the checkpoint, with what the options say on top.

    Raises UserError when they do not make a whole, or one of them would go unread.
    """
    if run is None and (arch is None or data is None):
        raise UserError(
            "probe: give --arch and --data, or --checkpoint of a run folder (runs/RUN/checkpoints/best.pt)"
        )
    if norm is not None and arch is None:
        raise UserError("--norm: the run tells its own norms; give it with --arch, or leave it out")
    try:
        fields: dict[str, Any] = run.data.model_dump() if run is not None else {}
        if data is not None:
            name, path = (Path(data).resolve().name, data) if Path(data).is_dir() else (data, None)
            if name != fields.get("name"):  # the run took so many images of its own data set, not of this
                fields |= {"train_images": None, "val_images": None}
            if name in NUM_CLASSES:
                fields |= {"num_classes": None}
            fields |= {"name": name, "path": path}
        if image_size is not None:
            fields |= {"image_size": image_size, "eval_resize": None}
        if num_classes is not None:
            fields |= {"num_classes": num_classes}
        data_spec = DataSpec.model_validate(fields)
        if arch is None:
            assert run is not None
            return run.model, data_spec
        described = {"arch": arch, "num_classes": data_spec.num_classes}
        if norm is not None:
            described["norm"] = yaml.safe_load(norm)
        return ModelSpec.model_validate(described), data_spec
    except ValidationError as error:
        raise UserError(f"probe: {explain(error)}") from None
    except yaml.YAMLError as error:
        raise UserError(f"--norm: not valid YAML: {error}") from None


def _run_of(checkpoint: Path | None) -> Run | None:
    if checkpoint is None or not (checkpoint.parent.parent / "run.json").exists():
        return None
    return read_run(checkpoint.parent.parent)


def _as_json(profile: "ShiftProfile") -> dict[str, Any]:
    layers = [{k: v for k, v in asdict(layer).items() if not k.endswith("_C")} for layer in profile.layers]
    return {"num_images": profile.num_images, "layers": layers, "skipped": profile.skipped}


def _print(profile: "ShiftProfile", title: str) -> None:
    table = Table("layer", title=f"Estimation shift of {title}, {profile.num_images} images", box=None)
    metrics = ("esm_mu", "esm_sigma", "esm_mu_scaled", "esm_sigma_scaled")
    for name in ("channels", "ESM μ", "ESM σ", "ESM μ, scaled", "ESM σ, scaled"):
        table.add_column(name, justify="right")
    for layer in profile.layers:
        table.add_row(layer.name, str(layer.num_channels), *[f"{getattr(layer, m):.4f}" for m in metrics])
    table.add_section()
    table.add_row("mean", "", *[f"{profile.mean(m):.4f}" for m in metrics], style="bold")
    console = Console()
    if profile.layers:
        console.print(table)
    else:
        console.print("The network has no BN layer that keeps estimates: there is no estimation shift.")
    for name, reason in profile.skipped.items():
        console.print(f"left out: {name}: {reason}", style="yellow", highlight=False)
