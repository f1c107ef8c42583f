"""Record: what a run leaves behind, as plain files that merge by copying.

Writing is for one process at a time (`RecordWriter` holds a lock); small files are replaced
atomically, measurements are appended a whole line at a time. Reading trusts nothing: a line cut
short is left out, and a run that says `running` while nobody holds its lock is shown as failed.
"""

import fcntl
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from suite.errors import UserError
from suite.experiment import Run
from suite.metrics import METRICS
from suite.paths import RunPaths

SCHEMA_VERSION = 1
_MEASUREMENT_KEYS = ("metric", "value", "epoch", "step")
State = Literal["running", "completed", "failed", "diverged", "preempted"]
Split = Literal["train", "val"]


def write_atomically(path: Path, text: str) -> None:
    """Write to a temporary name beside `path`, flush to disk, rename. Readers see the old or the new file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _encode(value: float) -> float | str:
    # JSON has no NaN: readers of every language stumble over a bare one.
    return float(value) if math.isfinite(value) else str(float(value))


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


class RecordWriter:
    """The only way to write a run's folder. A context manager that holds the folder's lock."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.run = run
        self.paths = RunPaths(folder)
        self._lock: IO[str] | None = None
        self._status: dict[str, Any] = {}

    def __enter__(self) -> "RecordWriter":
        is_new = not self.paths.folder.exists()
        try:
            self.paths.folder.mkdir(parents=True, exist_ok=True)
            self._lock = self.paths.lock.open("a")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A restart may come with other paths, threads or measurements: run.json says what is in force.
            content = {"schema_version": SCHEMA_VERSION, "run_id": self.run.run_id}
            content |= self.run.model_dump(mode="json")
            if _read_json(self.paths.run) != content:
                write_atomically(self.paths.run, json.dumps(content, indent=1) + "\n")
        except BlockingIOError:
            raise UserError(
                f"{self.paths.folder}: another process is training this run; wait for it, or stop it"
            ) from None
        except OSError as error:
            if is_new:
                shutil.rmtree(self.paths.folder, ignore_errors=True)
            raise UserError(f"{self.paths.folder}: cannot be written: {error.strerror or error}") from None
        self._status = _read_json(self.paths.status) or {"attempts": 0, "created_at": time.time()}
        return self

    def __exit__(self, *_: object) -> None:
        assert self._lock is not None
        self._lock.close()

    def start(self, provenance: dict[str, Any]) -> None:
        """Note an attempt: its provenance, and the state `running`."""
        self._append(self.paths.provenance, json.dumps({"started_at": time.time(), **provenance}))
        self.status("running", attempts=self._status["attempts"] + 1, reason=None)

    def status(self, state: State, **details: Any) -> None:
        """Replace status.json; details given before and not again are kept."""
        self._status |= {"state": state, "updated_at": time.time(), "pid": os.getpid(), **details}
        write_atomically(self.paths.status, json.dumps(self._status, indent=1) + "\n")

    def measure(
        self,
        metric: str,
        value: float | Sequence[float],
        *,
        epoch: int,
        step: int,
        split: Split | None = None,
    ) -> None:
        """Append a measurement: a number, or for a per-layer metric one number for each of `layers`."""
        vector = not isinstance(value, int | float)
        if metric not in METRICS or METRICS[metric].per_layer != vector:
            raise ValueError(f"{metric}: not a {'per-layer' if vector else 'scalar'} metric of suite.metrics")
        encoded = [_encode(v) for v in value] if not isinstance(value, int | float) else _encode(value)
        line = {"metric": metric, "value": encoded, "epoch": epoch, "step": step, "split": split}
        self._append(self.paths.measurements, json.dumps({k: v for k, v in line.items() if v is not None}))

    def layers(self, layers: Sequence[Layer]) -> None:
        """The layers that per-layer measurements list, in forward order."""
        content = [{"name": layer.name, "num_channels": layer.num_channels} for layer in layers]
        write_atomically(self.paths.layers, json.dumps(content) + "\n")

    def measurements_size_bytes(self) -> int:
        """Size to hand to `rewind` when training resumes from a checkpoint written now."""
        return self.paths.measurements.stat().st_size if self.paths.measurements.exists() else 0

    def rewind(self, size_bytes: int) -> None:
        """Drop what was measured after the checkpoint from which training resumes."""
        if self.paths.measurements.exists():
            with self.paths.measurements.open("r+b") as file:
                file.truncate(min(size_bytes, self.measurements_size_bytes()))

    @staticmethod
    def _append(path: Path, line: str) -> None:
        # One write of one whole line, so that a reader or a crash can cut only the last one.
        with path.open("ab", buffering=0) as file:
            data = (line + "\n").encode()
            if file.write(data) != len(data):
                raise OSError(28, "No space left on device", str(path))


@dataclass(frozen=True)
class Record:
    """A run folder, read."""

    paths: RunPaths
    run_id: str
    schema_version: int
    config: dict[str, Any]
    status: dict[str, Any]
    provenance: list[dict[str, Any]]
    layers: list[Layer]
    damaged_lines: int = 0
    died_silently: bool = False
    _lines: list[dict[str, Any]] = field(default_factory=list, repr=False)

    @classmethod
    def read(cls, folder: Path) -> "Record":
        """Raises UserError when the folder holds no readable run.json or one of a newer schema."""
        paths = RunPaths(folder)
        config = _read_json(paths.run)
        if not isinstance(config, dict):
            raise UserError(f"{paths.run}: not a readable run")
        version = config.pop("schema_version", 0)
        if version > SCHEMA_VERSION:
            raise UserError(
                f"{paths.run}: schema {version} is newer than this shiftbench's {SCHEMA_VERSION}; upgrade"
            )
        provenance, damaged_provenance = _read_lines(paths.provenance, ())
        lines, damaged = _read_lines(paths.measurements, _MEASUREMENT_KEYS)
        layers = [Layer(**layer) for layer in _read_json(paths.layers) or []]
        status = _read_json(paths.status) or {
            "state": "failed",
            "reason": "it never started: status.json is missing",
        }
        died_silently = status.get("state") == "running" and not is_locked(paths)
        if died_silently:
            status |= {
                "state": "failed",
                "reason": "the process ended without a word (killed, or its machine failed)",
            }
        return cls(
            paths=paths,
            run_id=config.pop("run_id", ""),
            schema_version=version,
            config=config,
            status=status,
            provenance=provenance,
            layers=layers,
            damaged_lines=damaged + damaged_provenance,
            died_silently=died_silently,
            _lines=lines,
        )

    @property
    def run(self) -> Run:
        """The configuration as a validated Run."""
        return Run.model_validate(self.config)

    @property
    def state(self) -> State:
        state: State = self.status["state"]
        return state

    @property
    def reason(self) -> str | None:
        reason: str | None = self.status.get("reason")
        return reason

    def measurements(self) -> Iterator[Measurement]:
        """All of them in the order written, per-layer ones spread over their layers."""
        for line in self._lines:
            where = {
                "metric": line["metric"],
                "epoch": line["epoch"],
                "step": line["step"],
                "split": line.get("split"),
            }
            if isinstance(line["value"], list):
                for layer, value in zip(self.layers, line["value"], strict=False):
                    yield Measurement(**where, value=float(value), layer=layer.name)
            else:
                yield Measurement(**where, value=float(line["value"]))

    def last(self, metric: str, split: str | None = None) -> float | None:
        """The newest value of a scalar metric, or None."""
        for line in reversed(self._lines):
            if (
                line["metric"] == metric
                and split in (None, line.get("split"))
                and not isinstance(line["value"], list)
            ):
                return float(line["value"])
        return None

    def last_per_layer(self, metric: str, split: str | None = None) -> dict[str, float]:
        """The newest values of a per-layer metric by layer name, in forward order; may be empty."""
        for line in reversed(self._lines):
            if (
                line["metric"] == metric
                and split in (None, line.get("split"))
                and isinstance(line["value"], list)
            ):
                return {layer.name: float(v) for layer, v in zip(self.layers, line["value"], strict=False)}
        return {}


def is_locked(paths: RunPaths) -> bool:
    """Whether a live process writes this run."""
    try:
        with paths.lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def _read_lines(path: Path, keys: tuple[str, ...]) -> tuple[list[dict[str, Any]], int]:
    """The complete lines of a file that are JSON objects with these keys, and how many others there are."""
    lines: list[dict[str, Any]] = []
    damaged = 0
    if path.exists():
        for text in path.read_bytes().split(b"\n"):
            if text.strip():
                try:
                    line = json.loads(text)
                except (json.JSONDecodeError, UnicodeDecodeError):
                    line = None
                if isinstance(line, dict) and all(key in line for key in keys):
                    lines.append(line)
                else:
                    damaged += 1
    return lines, damaged
