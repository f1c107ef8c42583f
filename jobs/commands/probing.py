"""What `shiftbench probe` probes, and how it shows the profile. No torch."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def run_of(checkpoint: Path | None) -> Run | None:
    """The run in whose folder a checkpoint lies, or None."""
    if checkpoint is None or not (checkpoint.parent.parent / "run.json").exists():
        return None
    return read_run(checkpoint.parent.parent)


def as_plain(profile: "ShiftProfile") -> dict[str, Any]:
    """A profile as JSON knows it."""
    layers = [{k: v for k, v in asdict(layer).items() if not k.endswith("_C")} for layer in profile.layers]
    return {"num_images": profile.num_images, "layers": layers, "skipped": profile.skipped}


def print_profile(profile: "ShiftProfile", title: str) -> None:
    """A profile as a table, a row for each layer."""
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
