"""Reads a run's folder, however its process ended."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from suite.errors import UserError
from suite.experiment import Run
from suite.files import parse_json, read_json, read_lines, read_whole
from suite.paths import RunPaths
from suite.record.costs import Costs, costs_of
from suite.record.rank_errors import RankError
from suite.record.shapes import COUNT, TEXT, Shape, described, fault_in, is_measurement
from suite.record.status import State, read_status

SCHEMA_VERSION = 1
MEASUREMENT_KEYS = ("metric", "value", "epoch", "step")
_RUN_SHAPES = {"schema_version": COUNT, "run_id": TEXT}
_LAYER_SHAPES: dict[str, Shape] = {"name": TEXT.required(), "num_channels": COUNT.required()}


@dataclass(frozen=True)
class Measurement:
    """One metric at one moment. `layer` is set for per-layer metrics."""

    metric: str
    value: float
    epoch: int
    step: int
    split: str | None = None
    layer: str | None = None


@dataclass(frozen=True)
class Layer:
    """A probed norm layer: its module name and number of channels."""

    name: str
    num_channels: int


@lru_cache(maxsize=256)  # many runs train the same network
def _layers(text: bytes) -> tuple[Layer, ...]:
    """Raise ValueError with what is wrong."""
    content = parse_json(text)
    if not isinstance(content, list):
        raise ValueError(f"expected a list of layers, found {described(content)}")
    for number, layer in enumerate(content):
        if fault := fault_in(layer, _LAYER_SHAPES):
            raise ValueError(f"{number}: {fault}")
    return tuple(Layer(layer["name"], layer["num_channels"]) for layer in content)


def read_config(paths: RunPaths) -> tuple[dict[str, Any], int]:
    """Return run.json's content, without the schema's version, and that. Raises UserError, OSError."""
    config = read_json(paths.run)
    if not isinstance(config, dict):
        raise UserError(f"{paths.run}: not a readable run")
    if fault := fault_in(config, _RUN_SHAPES):
        raise UserError(f"{paths.run}: not as shiftbench writes it: {fault}")
    version = config.pop("schema_version", 0)
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{paths.run}: schema {version} is newer than this shiftbench's {SCHEMA_VERSION}; upgrade"
        )
    return config, version


def experiment_of(paths: RunPaths) -> str | None:
    """Return the experiment that a run belongs to, or None where run.json does not say so."""
    try:
        experiment = read_config(paths)[0].get("experiment")
    except (OSError, UserError):
        return None
    return experiment if isinstance(experiment, str) else None


@dataclass(frozen=True)
class Record:
    """The content of a run folder. `lines` are its measurements as in the file, in the order written."""

    paths: RunPaths
    run_id: str
    schema_version: int
    config: dict[str, Any]
    status: dict[str, Any]
    provenance: list[dict[str, Any]]
    layers: list[Layer]
    damaged_lines: int = 0
    died_silently: bool = False
    errors: list[RankError] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list, repr=False)

    @classmethod
    def read(cls, folder: Path, with_measurements: bool = True) -> "Record":
        """Read a run folder. Raises UserError when a file is not readable or run.json of a newer schema.

        Without measurements, `lines` is empty: reports read those of thousands of runs in a faster way.
        """
        paths = RunPaths(folder)
        try:
            return cls._read(paths, with_measurements)
        except OSError as error:
            raise UserError(f"{error.filename or folder}: cannot be read: {error.strerror}") from None

    @classmethod
    def _read(cls, paths: RunPaths, with_measurements: bool) -> "Record":
        config, version = read_config(paths)
        provenance, damaged_provenance = read_lines(paths.provenance, ())
        lines, damaged = read_lines(paths.measurements, MEASUREMENT_KEYS) if with_measurements else ([], 0)
        usable = [line for line in lines if is_measurement(line)]
        damaged += len(lines) - len(usable)
        status = read_status(paths)
        if status.damage:
            raise UserError(status.damage)
        try:
            layers = list(_layers(read_whole(paths.layers) or b"[]"))
        except ValueError as error:
            raise UserError(f"{paths.layers}: not as shiftbench writes it: {error}") from None
        return cls(
            paths,
            config.pop("run_id", ""),
            version,
            config,
            status.content | {"reason": status.reason},
            provenance,
            layers=layers,
            damaged_lines=damaged + damaged_provenance,
            died_silently=status.died_silently,
            errors=status.errors,
            lines=usable,
        )

    @property
    def run(self) -> Run:
        """The configuration as a validated Run."""
        return Run.model_validate(self.config)

    @property
    def state(self) -> State:
        """What the run does, or how it ended: "running", "completed", "failed" …"""
        state: State = self.status["state"]
        return state

    @property
    def reason(self) -> str | None:
        """Why it ended so; None where there is nothing to say."""
        reason: str | None = self.status.get("reason")
        return reason

    @property
    def costs(self) -> Costs:
        """Its time, restarts, repeated steps and time in the queue, over all attempts."""
        return costs_of(self.status)

    def measurements(self) -> Iterator[Measurement]:
        """Yield all measurements in the order written; a per-layer line gives one for each layer."""
        for line in self.lines:
            where = {"split": line.get("split"), **{key: line[key] for key in ("metric", "epoch", "step")}}
            if isinstance(line["value"], list):
                for layer, value in zip(self.layers, line["value"], strict=False):
                    yield Measurement(**where, value=float(value), layer=layer.name)
            else:
                yield Measurement(**where, value=float(line["value"]))

    def last(self, metric: str, split: str | None = None) -> float | None:
        """Return the newest value of a scalar metric, or None."""
        values = self._newest_first(metric, split)
        return next((float(value) for value in values if not isinstance(value, list)), None)

    def last_per_layer(self, metric: str, split: str | None = None) -> dict[str, float]:
        """Return the newest values of a per-layer metric by layer name, in forward order; may be empty."""
        values = (value for value in self._newest_first(metric, split) if isinstance(value, list))
        return {layer.name: float(v) for layer, v in zip(self.layers, next(values, []), strict=False)}

    def _newest_first(self, metric: str, split: str | None) -> Iterator[Any]:
        for line in reversed(self.lines):
            if line["metric"] == metric and split in (None, line.get("split")):
                yield line["value"]
