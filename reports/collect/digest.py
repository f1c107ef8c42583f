"""A run folder without its measurements, to the values that a report uses and no more."""

import json
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, assert_never

import orjson

from suite.experiment import BatchFreeSpec, BatchNormSpec, DetectionSpec, NormSpec, Run, VariantSpec, XbnSpec
from suite.record import Record
from suite.specs.data import WHERE

_SHOWN_ELSEWHERE = {f"model.{name}" for name in ("arch", "norm", "num_classes")}
_SHOWN_ELSEWHERE |= {f"data.{name}" for name in ("name", *WHERE, "num_classes")}


_IN_LABELS = {"kind", "framework", "head", "fpn_norm", "batch_norm"}  # of the network or the norm


def digest(record: Record) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A row for the runs' table, without what comes from measurements, and a line for each attempt.

    Raises ValidationError, TypeError, KeyError, ValueError or AttributeError for what is not a run's.
    """
    starts = [_start(line) for line in record.provenance]
    last = starts[-1] if starts else {}
    row = {
        "run_id": record.run_id,
        **_axes(record.config),
        "state": record.state,
        "reason": str(record.reason or ""),
        "attempts": int(record.status.get("attempts", 0)),
        "job": str(record.status.get("job") or ""),
        "nodes": str(record.status.get("nodes") or ""),
        **vars(record.costs),
        "folder": str(record.paths.folder),
        "layers": json.dumps([layer.name for layer in record.layers]),
        **{name: last.get(name) for name in ("device", "device_type", "world_size", "loader")},
    }
    return _storable(row), [_storable(start) for start in starts]


def _storable(row: dict[str, Any]) -> dict[str, Any]:
    """With text that every file can hold. Raises OverflowError for a number that no column can."""
    for name, value in row.items():
        if isinstance(value, str) and not value.isascii():
            row[name] = value.encode("utf-8", "replace").decode()
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise OverflowError(f"{name}: {value}")
    return row


def _axes(config: dict[str, Any]) -> dict[str, Any]:
    """The axes of a run. The seeds of one cell are validated once."""
    rest = {name: value for name, value in config.items() if name not in ("experiment", "seed")}
    experiment, seed = config.get("experiment"), config.get("seed")
    if not isinstance(experiment, str) or type(seed) is not int:
        run = Run.model_validate(config)  # raises with what is wrong
        experiment, seed = run.experiment, run.seed
    return {"experiment": experiment, "seed": seed, **_science(orjson.dumps(rest))}


@lru_cache(maxsize=4096)
def _science(text: bytes) -> dict[str, Any]:
    run = Run.model_validate({**orjson.loads(text), "experiment": "", "seed": 0})
    norm = run.model.norm
    return {
        "task": run.task.kind,
        "arch": _network(run),
        "data": run.data.name,
        "norm": run.norm_label,
        **_norm_columns(norm),
        "global_batch_size": run.batch.global_batch_size,
        "batch_size_per_gpu": run.batch.per_gpu,
        "norm_batch_size": run.batch.norm,
        "epochs": run.num_epochs,
        "deciding": json.dumps(_deciding_fields(run)),
    }


def _network(run: Run) -> str:
    """The network; of a detector with its framework and head."""
    task = f"{run.task.label} " if isinstance(run.task, DetectionSpec) else ""
    return f"{task}{run.model.arch}"


def _norm_columns(norm: NormSpec) -> dict[str, Any]:
    """The parts of a norm; what it does not have is missing."""
    match norm:
        case BatchNormSpec():
            return {"norm_family": "bn"}
        case VariantSpec():
            return {"norm_family": "bn_variant"}
        case XbnSpec():
            parts = {name: getattr(norm, name) for name in ("position", "bfn", "num_groups", "stem")}
            return {"norm_family": "xbn", **parts, "downsample": norm.downsample, "stages": norm.stages}
        case BatchFreeSpec():
            return {"norm_family": "batch_free", "bfn": norm.kind, "num_groups": norm.num_groups}
    assert_never(norm)


def _deciding_fields(run: Run) -> dict[str, str]:
    """Whatever else decides the result, as `section.field`: text."""
    dump = run.model_dump(mode="json", include={"model", "data", "recipe"})
    if isinstance(run.task, DetectionSpec):
        dump["task"] = run.task.model_dump(mode="json", exclude=_IN_LABELS)
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for section, part in dump.items()
        for name, value in _flat(section, part)
    }


def _flat(section: str, part: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each field by its dotted key; of a part within it, such as recipe.swa, the fields of that."""
    for key, value in part.items():
        name = f"{section}.{key}"
        if name in _SHOWN_ELSEWHERE:
            continue
        if isinstance(value, dict):
            yield from _flat(name, value)
        else:
            yield name, value


def _start(line: dict[str, Any]) -> dict[str, Any]:
    """An attempt: when, with which code, where. None for what is missing or of another type."""
    hosts, versions = line.get("hosts"), line.get("versions")
    hosts = ", ".join(sorted({str(h) for h in hosts})) if isinstance(hosts, list) else hosts
    texts = {str(k): str(v) for k, v in versions.items()} if isinstance(versions, dict) else {}
    loader, at = line.get("loader"), line.get("started_at")
    ran = loader.get("ran") if isinstance(loader, dict) else None
    kinds = {"git_sha": str, "git_dirty": bool, "device": str, "device_type": str, "world_size": int}
    return {
        "started_at": at if isinstance(at, int | float) and math.isfinite(at) else None,
        **{name: value if type(value := line.get(name)) is kind else None for name, kind in kinds.items()},
        "loader": ran if isinstance(ran, str) else None,
        "hosts": hosts if isinstance(hosts, str) else None,
        "versions": json.dumps(texts),
    }
