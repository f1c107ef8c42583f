"""Records to three data frames: one row per run, per run and epoch, per run and layer.

Every table and figure is computed from these, so that a run is counted the same way everywhere.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from suite.experiment import BatchNormSpec, Run, XbnSpec
from suite.metrics import METRICS
from suite.record import Measurement, Record

# What makes two runs seeds of the same thing; `settings` is whatever else decides the result and varies.
CONTEXT = ["arch", "data", "settings", "global_batch_size"]
GROUP = [*CONTEXT, "batch_size_per_gpu", "norm_batch_size", "norm"]
SHIFT_METRICS = [m.name for m in METRICS.values() if m.per_layer]
SCALAR_METRICS = [m.name for m in METRICS.values() if not m.per_layer]
BEST_TOP1 = "best_top1_percent"


@dataclass(frozen=True)
class Frames:
    """The runs as data.

    `runs`: GROUP, seed, state, what the run cost (suite.record.Costs), the newest value of every scalar
    metric under its name, and for each per-layer metric `<name>_mean` over the run's own BN layers and
    `<name>_common` over the layers that all BN-bearing variants of the arch share. `counted` is false for a
    second copy of a run.
    `curves`: run, epoch, metric, split, value. `layers`: run, metric, layer, position, value, where
    position orders the layers of all variants of an arch on one axis. `layers` holds the newest probe of a
    run; `shift_by_epoch` has the earlier ones.
    """

    runs: pd.DataFrame
    curves: pd.DataFrame
    layers: pd.DataFrame
    common_layers: dict[str, list[str]]
    probes: pd.DataFrame

    @property
    def completed(self) -> pd.DataFrame:
        """The runs that results are made of."""
        return self.runs[self.runs.counted & (self.runs.state == "completed")]

    def shift_by_epoch(self, runs: Sequence[int], metric: str) -> pd.DataFrame:
        """Mean of a per-layer metric over these runs (of one arch): epoch, layer, position, value, seeds."""
        chosen = self.probes[self.probes.run.isin(runs) & (self.probes.metric == metric)]
        means = chosen.groupby(["epoch", "layer", "position"], as_index=False).agg(
            value=("value", "mean"), seeds=("run", "nunique")
        )
        return means.sort_values(["epoch", "position"], ignore_index=True)


def build_frames(records: Sequence[Record]) -> Frames:
    """Tabulate records. The frames are ordered by model, data, batch, norm (BN first) and seed."""
    settings = _settings([record.run for record in records])
    rows: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []
    probes: list[dict[str, Any]] = []
    for number, (record, setting) in enumerate(zip(records, settings, strict=True)):
        found, note = _measurements(record)
        row = {"run": number, **_axes(record.run), "settings": setting, **_outcome(record, found, note)}
        rows.append(row)
        curves += [
            {"run": number, "epoch": m.epoch, "metric": m.metric, "split": m.split, "value": m.value}
            for m in found
            if m.layer is None
        ]
        probes += [
            {"run": number, "metric": m.metric, "epoch": m.epoch, "layer": m.layer, "value": m.value}
            for m in found
            if m.layer is not None
        ]
        newest = {(m.metric, m.layer): m.value for m in found if m.layer is not None}
        layers += [{"run": number, "metric": k[0], "layer": k[1], "value": v} for k, v in newest.items()]
    runs = pd.DataFrame(rows)
    runs["counted"] = _counted(runs)
    layer_frame = pd.DataFrame(layers, columns=["run", "metric", "layer", "value"])
    common, position = _layer_sets(runs, layer_frame)
    archs = layer_frame.run.map(runs.set_index("run").arch)
    layer_frame["position"] = [position[a][n] for a, n in zip(archs, layer_frame.layer, strict=True)]
    probe_frame = pd.DataFrame(probes, columns=["run", "metric", "epoch", "layer", "value"])
    archs_of_probes = probe_frame.run.map(runs.set_index("run").arch)
    probe_frame["position"] = [
        position[a][n] for a, n in zip(archs_of_probes, probe_frame.layer, strict=True)
    ]
    shared = [n in common[a] for a, n in zip(archs, layer_frame.layer, strict=True)]
    layer_frame["common"] = pd.Series(shared, dtype=bool)
    runs = _with_shift_means(runs, layer_frame)
    order = ["arch", "data", "settings", "global_batch_size", "norm_batch_size", "batch_size_per_gpu"]
    runs = runs.sort_values([*order, "norm_rank", "norm", "seed"], ignore_index=True)
    curve_frame = pd.DataFrame(curves, columns=["run", "epoch", "metric", "split", "value"])
    return Frames(runs, curve_frame, layer_frame, common, probe_frame)


def _axes(run: Run) -> dict[str, Any]:
    norm = run.model.norm
    return {
        "run_id": run.run_id,
        "experiment": run.experiment,
        "arch": run.model.arch,
        "data": run.data.name,
        "norm": norm.label,
        "norm_rank": 0 if isinstance(norm, BatchNormSpec) else 1 if isinstance(norm, XbnSpec) else 2,
        "global_batch_size": run.batch.global_batch_size,
        "batch_size_per_gpu": run.batch.per_gpu,
        "norm_batch_size": run.batch.norm,
        "seed": run.seed,
        "epochs": run.recipe.epochs,
    }


def _outcome(record: Record, found: list[Measurement], note: str | None) -> dict[str, Any]:
    last: dict[str, Any] = record.provenance[-1] if record.provenance else {}
    scalars = dict.fromkeys(SCALAR_METRICS, math.nan)
    for m in found:
        # Evaluation's loss and accuracy are the results; training's are for the curves.
        if m.layer is None and not (m.split == "train" and m.metric in ("loss", "top1_percent")):
            scalars[m.metric] = m.value
    top1 = [
        m.value for m in found if m.metric == "top1_percent" and m.split == "val" and math.isfinite(m.value)
    ]
    bad = {m.split: m.value for m in found if m.metric == "bad_images"}
    damaged = f"{record.damaged_lines} damaged lines left out" if record.damaged_lines else None
    return {
        "state": record.state,
        "reason": str(record.reason or ""),
        "attempts": record.status.get("attempts", 0),
        "job": str(record.status.get("job") or ""),
        "nodes": str(record.status.get("nodes") or ""),
        **asdict(record.costs),
        "epoch": max((m.epoch for m in found), default=0),
        "folder": str(record.paths.folder),
        "notes": "; ".join(n for n in (note, damaged) if n),
        "device": last.get("device"),
        "device_type": last.get("device_type"),
        "world_size": last.get("world_size"),
        **scalars,
        "bad_images": sum(bad.values()) if bad else math.nan,
        BEST_TOP1: max(top1, default=math.nan),
    }


def _measurements(record: Record) -> tuple[list[Measurement], str | None]:
    """All measurements, or those before the first line that is JSON but no measurement."""
    found: list[Measurement] = []
    try:
        for measurement in record.measurements():
            found.append(measurement)  # noqa: PERF402 - what came before an error is kept
    except (KeyError, TypeError, ValueError, AttributeError):
        return found, f"measurements.jsonl: only the first {len(found)} values can be read"
    return found, None


def _settings(runs: Sequence[Run]) -> list[str]:
    """For each run `field=value` of what else decides the result and differs between runs alike in the axes.

    Without it, two learning rates in one folder would pass for two seeds.
    """
    flat = [_deciding_fields(run) for run in runs]
    alike: dict[tuple[Any, ...], list[dict[str, str]]] = {}
    for run, fields in zip(runs, flat, strict=True):
        axes = _axes(run)
        key = tuple(axes[name] for name in GROUP if name != "settings")
        alike.setdefault(key, []).append(fields)
    varying = sorted(
        {name for group in alike.values() for name in group[0] if len({fields[name] for fields in group}) > 1}
    )
    return [", ".join(f"{name.partition('.')[2]}={fields[name]}" for name in varying) for fields in flat]


def _deciding_fields(run: Run) -> dict[str, str]:
    dump = run.model_dump(mode="json", include={"model", "data", "recipe"})
    shown_elsewhere = {
        "model.arch",
        "model.norm",
        "model.num_classes",
        "data.name",
        "data.path",
        "data.num_classes",
    }
    flat = {f"{section}.{name}": value for section, part in dump.items() for name, value in part.items()}
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in flat.items()
        if name not in shown_elsewhere
    }


def _counted(runs: pd.DataFrame) -> pd.Series:
    """One folder for each run_id: a completed one if there is any, then the one that got furthest."""
    rank = pd.DataFrame({"run_id": runs.run_id, "done": runs.state == "completed", "epoch": runs.epoch})
    chosen = (
        rank.sort_values(["done", "epoch"], ascending=False, kind="stable").drop_duplicates("run_id").index
    )
    return pd.Series(runs.index.isin(chosen), index=runs.index)


def _layer_sets(
    runs: pd.DataFrame, layers: pd.DataFrame
) -> tuple[dict[str, list[str]], dict[str, dict[str, int]]]:
    """By arch: the layers that all BN-bearing variants share, and every layer's place on one axis."""
    orders: dict[str, dict[str, list[str]]] = {arch: {} for arch in runs.arch.unique()}
    labels = runs.set_index("run")
    for number, names in layers.groupby("run", sort=False).layer:
        orders[labels.arch[number]].setdefault(labels.norm[number], list(dict.fromkeys(names)))
    common: dict[str, list[str]] = {}
    position: dict[str, dict[str, int]] = {}
    for arch, variants in orders.items():
        merged = merge_orders(variants.values())
        common[arch] = [name for name in merged if all(name in names for names in variants.values())]
        position[arch] = {name: place for place, name in enumerate(merged)}
    return common, position


def merge_orders(orders: Iterable[Sequence[str]]) -> list[str]:
    """One order of all names: the longest list's, the names of the others after their neighbours."""
    merged: list[str] = []
    for names in sorted(orders, key=len, reverse=True):
        place = 0
        for name in names:
            if name in merged:
                place = merged.index(name) + 1
            else:
                merged.insert(place, name)
                place += 1
    return merged


def _with_shift_means(runs: pd.DataFrame, layers: pd.DataFrame) -> pd.DataFrame:
    """Add `<metric>_mean` and `<metric>_common`. A NaN layer makes the run's mean NaN."""
    for suffix, chosen in (("mean", layers), ("common", layers[layers.common])):
        means = chosen.groupby(["run", "metric"]).value.agg(lambda v: v.mean(skipna=False)).unstack()
        means = means.reindex(index=runs.run, columns=SHIFT_METRICS).set_axis(runs.index)
        runs = runs.join(means.add_suffix(f"_{suffix}"))
    counts = layers.groupby("run").layer.nunique()
    return runs.assign(num_bn_layers=runs.run.map(counts).fillna(0).astype(int))
