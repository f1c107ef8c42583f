"""Makers of the claims' runs, written by the suite's own writer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reports.claims import ClaimResult, gather, judge
from suite.config import expand
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import Layer, NoiseRecord, RecordWriter, write_noise
from tests.helpers.records import PROVENANCE

DEPTH = 20
MEMORY = {"loader": "memory", "image_size": 28, "eval_resize": 28, "crop_area": [1, 1], "flip": False}
GNBN = {"kind": "xbn", "position": "p2", "bfn": "gn", "num_groups": 10}


def mlp_runs(
    sizes: Sequence[int] = (1000,), norms: Sequence[Any] = ({"kind": "bn"},), seeds: int = 3
) -> list[Run]:
    """The runs of a claim on the 20-layer MLP, by full batch over 20 epochs."""
    content = {
        "model": {"arch": "mlp20", "norm": list(norms)},
        "data": {"name": "fashion-mnist", "train_images": list(sizes), **MEMORY},
        "batch": {"global_batch_size": "all"},
        "recipe": {"epochs": 20},
        "seeds": list(range(seeds)),
    }
    return list(expand(content, name="mlp").runs)


def resnet_runs(norms: Sequence[Any], norm_batches: Sequence[int] = (32,), seeds: int = 3) -> list[Run]:
    """The runs of a claim on a small ResNet."""
    content = {
        "model": {"arch": "small_resnet20", "norm": list(norms)},
        "data": {"name": "fashion-mnist-7k", **MEMORY},
        "batch": {"global_batch_size": 32, "norm_batch_size": list(norm_batches)},
        "recipe": {"epochs": 3},
        "seeds": list(range(seeds)),
    }
    return list(expand(content, name="resnet").runs)


def layer_names(run: Run) -> list[str]:
    """The MLP's BN layers: every one, or every second with GNBN."""
    ends = ("bn1",) if run.model.norm.kind == "xbn" else ("bn1", "bn2")
    return [f"pairs.{pair}.{end}" for pair in range(DEPTH // 2) for end in ends]


def write(
    root: Path,
    run: Run,
    *,
    training: Sequence[float] = (),
    inference: Sequence[float] = (),
    corrected: Sequence[float] = (),
    esm_sigma: Sequence[float] = (),
    on_training: Sequence[float] = (),
    layers: Sequence[str] | None = None,
    top1_percent: float = 50.0,
    state: str = "completed",
    reason: str | None = None,
    noise: dict[float, float] | None = None,
    common_noise: dict[float, float] | None = None,
    earlier: dict[int, list[float]] | None = None,
) -> Path:
    """A run: errors (%) on its training images by epoch, ESM σ by layer at its end, final top-1, and noise.

    The scaled ESM σ is half of the raw one; `on_training`: the scaled one of the training images. `earlier`:
    ESM σ by layer at epochs before the end. `noise`: top-1 by magnitude, the mean of two draws that are a
    point above it and below; `common_noise`: that on the common layers, where it differs.
    """
    folder = root / run.folder_name
    names = layer_names(run) if layers is None else list(layers)
    with RecordWriter(run, folder) as record:
        record.start(PROVENANCE)
        record.layers([Layer(name, 100) for name in names])
        for metric, errors in (
            ("top1_percent", training),
            ("top1_inference_percent", inference),
            ("top1_bias_corrected_percent", corrected),
        ):
            for epoch, error in enumerate(errors, start=1):
                record.measure(metric, 100 - error, epoch=epoch, step=epoch, split="train")
        for epoch, values in (earlier or {}).items():
            record.measure("esm_sigma", values, epoch=epoch, step=epoch, split="val")
        last: dict[str, Any] = {"epoch": run.num_epochs, "step": run.num_epochs, "split": "val"}
        if esm_sigma:
            record.measure("esm_sigma", list(esm_sigma), **last)
            record.measure("esm_sigma_scaled", [value / 2 for value in esm_sigma], **last)
        if on_training:
            record.measure("esm_sigma_scaled_train", list(on_training), **{**last, "split": "train"})
        record.measure("top1_percent", top1_percent, **last)
        record.status(state, reason=reason)  # type: ignore[arg-type]
    if noise is not None:
        write_noise(
            RunPaths(folder),
            {"all": _noise(noise, names), "common": _noise(common_noise or noise, names[:1])},
        )
    return folder


def _noise(top1: dict[float, float], layers: Sequence[str]) -> NoiseRecord:
    rows = tuple((value - 1, value + 1) for value in top1.values())
    return NoiseRecord(60, 0, 1000, ("BN",), tuple(layers), tuple(top1), rows)


def judged(letter: str, root: Path, runs: Sequence[Run]) -> ClaimResult:
    return judge(gather(letter, [root / run.folder_name for run in runs]))


def outcomes(result: ClaimResult) -> list[str]:
    return [check.outcome for check in result.checks]
