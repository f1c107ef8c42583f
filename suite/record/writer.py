"""Writes a run's folder, one process at a time."""

import json
import math
import os
import shutil
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Literal

from suite.errors import UserError
from suite.experiment import Run
from suite.files import NoLocks, append_line, file_age_s, locked, read_json, read_lines, write_atomically
from suite.metrics import METRICS
from suite.paths import RunPaths
from suite.record.costs import attempt_rank_s
from suite.record.rank_errors import clear_errors
from suite.record.reader import SCHEMA_VERSION, Layer
from suite.record.status import State, read_content
from suite.record.stop_request import StopRequest, clear_stop_request, read_stop_request

Split = Literal["train", "val"]
POLL_S = 0.2


class RecordWriter:
    """The only writer of a run's folder. A context manager that holds the folder's lock."""

    def __init__(
        self,
        run: Run,
        folder: Path,
        *,
        claim: str | None = None,
        patience_s: float = 1.0,
        durable: bool = True,
    ) -> None:
        """With a `claim`, ask a process that holds the lock to leave within `patience_s`.

        Without one, `patience_s` outlasts those that hold the lock for a moment to test it. `durable=False`
        does not wait for the disk, for records that can be written again.
        """
        self.run = run
        self.paths = RunPaths(folder)
        self._claim, self._patience_s, self._durable = claim, patience_s, durable
        self._lock: IO[str] | None = None
        self._status: dict[str, Any] = {}
        self._status_lock = threading.RLock()

    def __enter__(self) -> "RecordWriter":
        is_new = not self.paths.folder.exists()
        try:
            self.paths.folder.mkdir(parents=True, exist_ok=True)
            self._lock = self._locked()
            former = read_content(self.paths)
            # A restart may have other paths, threads or measurements: run.json holds those in use.
            content = {"schema_version": SCHEMA_VERSION, "run_id": self.run.run_id}
            content |= self.run.model_dump(mode="json")
            if read_json(self.paths.run) != content:
                text = json.dumps(content, indent=1) + "\n"
                write_atomically(self.paths.run, text, durable=self._durable)
        except NoLocks as error:
            if is_new:
                shutil.rmtree(self.paths.folder, ignore_errors=True)
            raise UserError(error.sentence(self.paths.folder.parent)) from None
        except OSError as error:
            self._leave()
            if is_new:
                shutil.rmtree(self.paths.folder, ignore_errors=True)
            raise UserError(f"{self.paths.folder}: cannot be written: {error.strerror or error}") from None
        except UserError:
            self._leave()
            raise
        self._status = {"attempts": 0, "created_at": time.time()} if former is None else former
        self._status.setdefault("attempts", 0)
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._lock is not None:
            self._lock.close()

    # ------------------------------------------------------------ one writer at a time

    def _locked(self) -> IO[str]:
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                lock = locked(self.paths.lock, wait=False)
            except BlockingIOError:
                if self._claim is not None:
                    write_atomically(self.paths.claim, self._claim)
                if time.monotonic() < deadline:
                    time.sleep(POLL_S)
                    continue
                waited = ""
                if self._claim is not None:
                    self.paths.claim.unlink(missing_ok=True)
                    waited = f" and did not leave in {self._patience_s:.0f} s"
                whose = f"{self.paths.folder}: another process is training this run{waited}"
                raise UserError(f"{whose}; wait for it, or stop it") from None
            if self._claim is not None:
                self.paths.claim.unlink(missing_ok=True)
            return lock

    def is_claimed(self) -> bool:
        """Return whether a newer start of this run waits for this process to leave.

        A node that Slurm lost may still be training when the job is started again elsewhere.
        """
        return self.paths.claim.exists()

    def stop_request(self) -> StopRequest | None:
        """Return a study's request that this run stop, or None."""
        return read_stop_request(self.paths)

    # ------------------------------------------------------------ status

    def forget_errors(self) -> None:
        """Delete the errors of a former attempt. Call it before other ranks begin."""
        clear_errors(self.paths)

    def queue(self, **details: Any) -> None:
        """Set the state `queued`. The costs of former attempts are kept."""
        self.forget_errors()
        clear_stop_request(self.paths)
        details["rank_s"] = self._status.get("rank_s", 0.0) + attempt_rank_s(self._status)
        self._status.pop("started_at", None)
        self.status("queued", reason=None, nodes=None, **details)

    def start(self, provenance: dict[str, Any]) -> None:
        """Begin an attempt: write its provenance, the state `running`, and the costs of former attempts.

        The wait in the queue is by the file system's clock: those of two machines may differ by hours.
        """
        now, before = time.time(), self._status
        self.paths.claim.unlink(missing_ok=True)  # a process that still waits writes it again
        for name in ("stopped_by", "stopped_after_epoch"):
            before.pop(name, None)
        line = {"started_at": now, **provenance}
        costs = {"rank_s": before.get("rank_s", 0.0) + attempt_rank_s(before)}
        job, state = provenance.get("scheduler_job"), before.get("state")
        # `failed` in the same job: a rank reported that a node had failed, and Slurm queued the job again.
        has_waited = state in ("queued", "preempted", "running") or before.get("job") == job
        if job and has_waited:
            line["queue_wait_s"] = file_age_s(self.paths.status)
            costs["queue_wait_s"] = (before.get("queue_wait_s") or 0.0) + line["queue_wait_s"]
        append_line(self.paths.provenance, json.dumps(line))
        self.status(
            "running",
            attempts=before["attempts"] + 1,
            reason=None,
            started_at=now,
            world_size=provenance.get("world_size", 1),
            job=job,
            nodes=provenance.get("nodes"),
            **costs,
        )

    def loader_of_checkpoints(self) -> str | None:
        """Return which loader has served the training whose checkpoints are here; None without any.

        It is that of the newest start, as a start with another one resumes from no checkpoint.
        """
        starts = read_lines(self.paths.provenance, ())[0] if self.paths.checkpoint_steps() else []
        loaders = [one["loader"] for one in starts if isinstance(one.get("loader"), dict)]
        ran = loaders[-1].get("ran") if loaders else None
        return ran if isinstance(ran, str) else None

    def resume(self, step: int, damaged_checkpoints: Sequence[str]) -> None:
        """Write the step at which this attempt begins, and how many steps of former ones are lost."""
        lost = max(0, (self._status.get("step") or 0) - step)
        self.status(
            "running",
            resumed_from_step=step,
            step=step,
            damaged_checkpoints=list(damaged_checkpoints),
            lost_steps=self._status.get("lost_steps", 0) + lost,
        )

    def status(self, state: State, **details: Any) -> None:
        """Replace status.json. Details from earlier calls are kept unless given again. Any thread may."""
        with self._status_lock:
            self._status |= {"state": state, "updated_at": time.time(), "pid": os.getpid()}
            self._status |= {"host": socket.gethostname(), **details}
            content = json.dumps(self._status, indent=1) + "\n"
            write_atomically(self.paths.status, content, durable=self._durable)

    def progress(self, **details: Any) -> None:
        """Add details of a running run. A `step` before the newest is not written: threads may be late.

        Nothing is, once the run has ended, which another thread than the one that trains may decide.
        """
        with self._status_lock:
            if self._status.get("state") != "running":
                return
            if "step" in details:
                details["step"] = max(details["step"], self._status.get("step") or 0)
            self.status("running", **details)

    def mark_ended(self, state: State, reason: str) -> None:
        """Set the final state of a process that could not write it; `updated_at` is kept."""
        self.status(state, reason=reason, updated_at=self._status.get("updated_at", time.time()))

    def detail(self, name: str) -> Any:
        """Return a detail of the status, or None."""
        return self._status.get(name)

    def keep_patch(self, name: str, patch: str) -> None:
        """Write a difference of the sources from their commit, unless it is there already."""
        path = self.paths.patch(name)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, patch)

    def keep_file(self, name: str, text: str) -> None:
        """Replace a file of the run folder, which holds more of a result than its measurements."""
        write_atomically(self.paths.folder / name, text, durable=self._durable)

    # ------------------------------------------------------------ measurements

    def measure(
        self,
        metric: str,
        value: float | Sequence[float],
        *,
        epoch: int,
        step: int,
        split: Split | None = None,
    ) -> None:
        """Append a measurement: a number, or one for each of `layers` if the metric is per layer.

        Raises ValueError for a metric that suite.metrics does not have, or not with this shape.
        """
        shape = "scalar" if isinstance(value, int | float) else "per-layer"
        if metric not in METRICS or METRICS[metric].per_layer != (shape == "per-layer"):
            raise ValueError(f"{metric}: not a {shape} metric of suite.metrics")
        encoded = _encode(value) if isinstance(value, int | float) else [_encode(v) for v in value]
        line = {"metric": metric, "value": encoded, "epoch": epoch, "step": step, "split": split}
        append_line(self.paths.measurements, json.dumps({k: v for k, v in line.items() if v is not None}))

    def layers(self, layers: Sequence[Layer]) -> None:
        """Write the layers of the per-layer measurements, in forward order."""
        write_atomically(self.paths.layers, json.dumps([asdict(layer) for layer in layers]) + "\n")

    def measurements_size_bytes(self) -> int:
        """Return the size to give to `rewind` when training resumes from a checkpoint of now."""
        return self.paths.measurements.stat().st_size if self.paths.measurements.exists() else 0

    def tid(self, tid_mu: Sequence[float], tid_sigma: Sequence[float], *, epoch: int, step: int) -> None:
        """Append TID of each of `layers` over the steps since the last line, to a file of its own."""
        values = {"tid_mu": [_encode(v) for v in tid_mu], "tid_sigma": [_encode(v) for v in tid_sigma]}
        append_line(self.paths.tid, json.dumps({"epoch": epoch, "step": step, **values}))

    def rewind(self, size_bytes: int, step: int) -> None:
        """Cut the measurements back to `size_bytes`, and TID to `step`: those of the resumed checkpoint."""
        if self.paths.tid.exists():
            lines, _ = read_lines(self.paths.tid, ("step",))
            kept = [json.dumps(line) + "\n" for line in lines if line["step"] <= step]
            write_atomically(self.paths.tid, "".join(kept))
        if self.paths.measurements.exists():
            with self.paths.measurements.open("r+b") as file:
                file.truncate(min(size_bytes, self.measurements_size_bytes()))


def _encode(value: float) -> float | str:
    # JSON has no NaN, and most readers refuse one.
    return float(value) if math.isfinite(value) else str(float(value))
