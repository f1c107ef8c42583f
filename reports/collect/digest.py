"""One run folder to the values that a report uses, and no more: what is kept of it between two reports."""

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from suite.experiment import BatchNormSpec, Run, XbnSpec
from suite.metrics import METRICS
from suite.record import Record

SCALAR_METRICS = [m.name for m in METRICS.values() if not m.per_layer]
BEST_TOP1 = "best_top1_percent"
# Of these the evaluation's values are results; the training's are for the curves.
_BOTH_SPLITS = ("loss", "top1_percent")
_SHOWN_ELSEWHERE = (
    "model.arch",
    "model.norm",
    "model.num_classes",
    "data.name",
    "data.path",
    "data.num_classes",
)


@dataclass(frozen=True)
class Digest:
    """A run's values.

    `row`: one for each column of tables.RUNS. `starts`: one line for each attempt. `curves`: metric, split,
    epoch, value of every scalar, in the order written. `probes`: metric, epoch and a value for each layer.
    """

    row: dict[str, Any]
    starts: list[dict[str, Any]]
    curves: list[tuple[str, str | None, int, float]] = field(default_factory=list)
    probes: list[tuple[str, int, list[float]]] = field(default_factory=list)


def digest(record: Record) -> Digest:
    """Raises ValidationError, TypeError, KeyError, ValueError or AttributeError for what is not a run's."""
    curves, probes, note = _measurements(record)
    damaged = f"{record.damaged_lines} damaged lines left out" if record.damaged_lines else None
    epochs = [curve[2] for curve in curves] + [probe[1] for probe in probes]
    row = {
        **_axes(record.run),
        "state": record.state,
        "reason": str(record.reason or ""),
        "attempts": int(record.status.get("attempts", 0)),
        "job": str(record.status.get("job") or ""),
        "nodes": str(record.status.get("nodes") or ""),
        **asdict(record.costs),
        "epoch": max(epochs, default=0),
        "folder": str(record.paths.folder),
        "notes": "; ".join(n for n in (note, damaged) if n),
        "layers": json.dumps([layer.name for layer in record.layers]),
        **_newest(curves),
    }
    starts = [_start(line) for line in record.provenance]
    last = starts[-1] if starts else {}
    row |= {name: last.get(name) for name in ("device", "device_type", "world_size")}
    return Digest(row, starts, curves, probes)


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
        "deciding": json.dumps(_deciding_fields(run)),
    }


def _deciding_fields(run: Run) -> dict[str, str]:
    """Whatever else decides the result, as `section.field`: text."""
    dump = run.model_dump(mode="json", include={"model", "data", "recipe"})
    flat = {f"{section}.{name}": value for section, part in dump.items() for name, value in part.items()}
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in flat.items()
        if name not in _SHOWN_ELSEWHERE
    }


def _measurements(
    record: Record,
) -> tuple[list[tuple[str, str | None, int, float]], list[tuple[str, int, list[float]]], str | None]:
    """All measurements, or those before the first line that is JSON but no measurement."""
    curves: list[tuple[str, str | None, int, float]] = []
    probes: list[tuple[str, int, list[float]]] = []
    width = len(record.layers)
    try:
        for line in record.lines:
            value, metric, split = line["value"], line["metric"], line.get("split")
            if not isinstance(metric, str) or not isinstance(split, str | None):
                raise TypeError(f"no measurement: {line}")
            if isinstance(value, list):
                probes.append((metric, int(line["epoch"]), [float(v) for v in value[:width]]))
            else:
                curves.append((metric, split, int(line["epoch"]), float(value)))
    except (TypeError, ValueError, OverflowError):
        count = len(curves) + sum(len(values) for *_, values in probes)
        return curves, probes, f"measurements.jsonl: only the first {count} values can be read"
    return curves, probes, None


def _newest(curves: list[tuple[str, str | None, int, float]]) -> dict[str, float]:
    """The newest value of every scalar metric, and the best top-1 of any epoch."""
    found = dict.fromkeys(SCALAR_METRICS, math.nan)
    best, bad = math.nan, {}
    for metric, split, _, value in curves:
        if split == "train" and metric in _BOTH_SPLITS:
            continue
        if metric in found:
            found[metric] = value
        if metric == "top1_percent" and split == "val" and math.isfinite(value) and not value <= best:
            best = value
        elif metric == "bad_images":
            bad[split] = value
    return found | {"bad_images": sum(bad.values()) if bad else math.nan, BEST_TOP1: best}


def _start(line: dict[str, Any]) -> dict[str, Any]:
    """An attempt: when, with which code, where. None for what it does not tell, or not in our words."""
    hosts, versions = line.get("hosts"), line.get("versions")
    hosts = ", ".join(sorted({str(h) for h in hosts})) if isinstance(hosts, list) else hosts
    return {
        "started_at": _if(line.get("started_at"), int, float),
        "git_sha": _if(line.get("git_sha"), str),
        "git_dirty": _if(line.get("git_dirty"), bool),
        "device": _if(line.get("device"), str),
        "device_type": _if(line.get("device_type"), str),
        "world_size": _if(line.get("world_size"), int),
        "hosts": _if(hosts, str),
        "versions": json.dumps(
            {str(k): str(v) for k, v in versions.items()} if isinstance(versions, dict) else {}
        ),
    }


def _if(value: Any, *kinds: type) -> Any:
    return value if type(value) in kinds else None
