"""A deterministic maker of run folders, written by the suite's own writer."""

import math
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from suite.config import expand
from suite.experiment import BatchNormSpec, Run, XbnSpec
from suite.paths import RunPaths
from suite.record import Layer, RecordWriter

SWEEP: dict[str, Any] = {
    "name": "synthetic-sweep",
    "model": {
        "arch": "small_resnet20",
        "norm": [{"kind": "bn"}, {"kind": "xbn"}, {"kind": "gn", "num_groups": 8}],
    },
    "data": {"name": "fashion-mnist-7k", "image_size": 28},
    "batch": {"global_batch_size": 64, "norm_batch_size": [4, 16, 64]},
    "recipe": {"epochs": 6, "milestones": [4]},
    "seeds": [0, 1, 2],
}
PROVENANCE: dict[str, Any] = {
    "started_at": 1_790_000_000.0,
    "git_sha": "0123456789abcdef0123456789abcdef01234567",
    "git_dirty": False,
    "versions": {"python": "3.12.1", "torch": "2.11.0", "torchvision": "0.26.0"},
    "device": "NVIDIA H200",
    "world_size": 1,
    "hosts": ["node-1"],
    "scheduler_job": None,
}
SITES = ["bn1", *(f"layer{s}.{b}.{n}" for s in (1, 2, 3) for b in (0, 1) for n in ("bn1", "bn2", "bn3"))]


def expand_runs(**changes: Any) -> list[Run]:
    """The runs of SWEEP with some sections replaced."""
    return list(expand({**SWEEP, **changes}, name="synthetic").runs)


def bn_layers(run: Run) -> list[str]:
    """Norm sites of a small ResNet that stay BN: XBN takes the stem and the second norm of each block."""
    if isinstance(run.model.norm, BatchNormSpec):
        return SITES
    if isinstance(run.model.norm, XbnSpec):
        return [site for site in SITES[1:] if not site.endswith("bn2")]
    return []


def write_run(
    root: Path,
    run: Run,
    *,
    top1_percent: Sequence[float] = (50.0, 60.0),
    esm_sigma: Sequence[float] | None = None,
    esm_mu: Sequence[float] | None = None,
    layers: Sequence[str] | None = None,
    earlier_sigma: Sequence[Sequence[float]] = (),
    state: str = "completed",
    reason: str | None = None,
    provenance: dict[str, Any] | None = None,
    throughput: dict[str, float] | None = None,
    final: bool = True,
    per_layer: Mapping[str, Sequence[float]] | None = None,
    **details: Any,
) -> Path:
    """Write one run with the given numbers, one top-1 for each epoch; returns its folder.

    The scaled ESM is a quarter of the raw one. There are no cross-half values, as in older records.
    `earlier_sigma`: ESM σ by layer at the first epochs, in turn; `esm_sigma` is the last epoch's.
    `per_layer`: other metrics by layer, at the last epoch.
    `details` are written to its status.
    """
    folder = root / run.folder_name
    names = bn_layers(run) if layers is None else list(layers)
    sigma = [1.0] * len(names) if esm_sigma is None else list(esm_sigma)
    mu = sigma if esm_mu is None else list(esm_mu)
    with RecordWriter(run, folder) as writer:
        writer.start(PROVENANCE if provenance is None else provenance)
        writer.layers([Layer(name, 16) for name in names])
        for epoch, top1 in enumerate(top1_percent, start=1):
            at: dict[str, Any] = {"epoch": epoch, "step": 100 * epoch}
            writer.measure("loss", 2.3 * math.exp(-top1 / 40), split="train", **at)
            writer.measure("top1_percent", top1 + 1, split="train", **at)
            writer.measure("epoch_time_s", 12.5, split="train", **at)
            writer.measure("loss", 2.4 * math.exp(-top1 / 40), split="val", **at)
            writer.measure("top1_percent", top1, split="val", **at)
            writer.measure("top5_percent", min(100.0, top1 + 20), split="val", **at)
            if epoch <= len(earlier_sigma):
                earlier = list(earlier_sigma[epoch - 1])
                writer.measure("esm_sigma", earlier, split="val", **at)
                writer.measure("esm_sigma_scaled", [v / 4 for v in earlier], split="val", **at)
        if final and names:
            for metric, values in (("esm_sigma", sigma), ("esm_mu", mu)):
                writer.measure(metric, values, split="val", **at)
                writer.measure(f"{metric}_scaled", [v / 4 for v in values], split="val", **at)
            writer.measure("top1_precise_percent", top1_percent[-1] + 0.5, split="val", **at)
        for metric, of_layers in (per_layer or {}).items():
            writer.measure(metric, list(of_layers), split="val", **at)
        if final:
            for metric, value in (THROUGHPUT | (throughput or {})).items():
                writer.measure(metric, value, split="train", **at)
            writer.measure("bad_images", 0, split="train", **at)
        writer.status(state, reason=reason, **details)  # type: ignore[arg-type]
    return folder


def write_waiting(root: Path, run: Run, state: str = "queued", reason: str | None = None) -> Path:
    """Write a run that no process ever had."""
    folder = root / run.folder_name
    with RecordWriter(run, folder) as writer:
        writer.queue()
        writer.status(state, reason=reason)  # type: ignore[arg-type]
    return folder


THROUGHPUT = {
    "images_per_s": 2400.0,
    "step_time_p50_ms": 26.5,
    "step_time_p95_ms": 31.0,
    "data_wait_share": 0.06,
    "peak_memory_gib": 1.75,
    "flops_per_image": 2.4e8,
    "matmul_peak_flops_per_s": 4.1e13,
    "matmul_peak_share": 0.014,
}


def write_sweep(root: Path, *, probe_epochs: bool = False, **changes: Any) -> list[Path]:
    """A plausible sweep: BN's shift grows with depth and as norm batches shrink, XBN's less.

    One run fails and one diverges. With `probe_epochs` the shift is known at every epoch, and falls. The
    cross-half values are 0.95 of ESM.
    """
    folders = []
    for number, run in enumerate(expand_runs(**changes)):
        noise = random.Random(run.run_id)
        norm, batch = run.model.norm, run.batch.norm
        xbn = isinstance(norm, XbnSpec)
        names = bn_layers(run)
        depth = {site: i for i, site in enumerate(SITES)}
        strength = 2.2 / math.sqrt(batch) * (0.35 if xbn else 1.0)
        sigma = [strength * (0.4 + 0.12 * depth[n]) * noise.uniform(0.85, 1.15) for n in names]
        loss_of_accuracy = {True: 1.5}.get(xbn, 6.0) / math.sqrt(batch) if names else 2.5
        top1 = [
            86 - loss_of_accuracy * 2 - 30 * math.exp(-e / 1.5) + noise.gauss(0, 0.5) for e in range(1, 7)
        ]
        state, reason, shown = "completed", None, top1
        if number == 1:
            state, reason, shown = "diverged", "loss is nan at step 312", top1[:3]
        if number == 13:
            state, reason, shown = "failed", "CUDA out of memory while allocating 2.00 GiB", top1[:2]
        mu = [1.6 * s * noise.uniform(0.9, 1.1) for s in sigma]
        cross = {
            f"esm_{name}{scale}_cross": [0.95 * value / divisor for value in values]
            for name, values in (("sigma", sigma), ("mu", mu))
            for scale, divisor in (("", 1), ("_scaled", 4))
        }
        folders.append(
            write_run(
                root,
                run,
                top1_percent=shown,
                esm_sigma=sigma,
                esm_mu=mu,
                per_layer=cross if names and state == "completed" else {},
                earlier_sigma=[[s * (8 - e) / 2 for s in sigma] for e in range(1, 6)] if probe_epochs else [],
                throughput={"images_per_s": noise.uniform(0.97, 1.03) * (2400 if names else 2250)},
                state=state,
                reason=reason,
                final=state == "completed",
            )
        )
    return folders


def written_before(folder: Path, seconds: float) -> None:
    """Let the file system's clock say that a run's status was written so many seconds earlier."""
    status = RunPaths(folder).status
    written_s = status.stat().st_mtime - seconds
    os.utime(status, (written_s, written_s))
