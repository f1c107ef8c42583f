"""Where a trial's run is trained: as a process beside this one, or as a Slurm job of its own.

Either way it is an ordinary run. What was running before is taken up, not started twice.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jobs.clusters import LocalCluster, SlurmCluster
from jobs.local.child import Child, end, settle, start
from jobs.slurm.commands import SlurmError, ask
from jobs.status.overview import RunStatus, overview
from jobs.submit import AnyCluster, submit
from suite.errors import UserError
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import RecordWriter, State, is_locked, read_request, read_status

POLL_S = 0.1
# A process that lost its driver writes a checkpoint before it ends.
PATIENCE_S = 60.0
LOOK_EVERY_S = 10.0
SILENCE_S = 60.0
# A run that is asked to stop looks at its folder every few seconds; Slurm's cancelling is for what does not.
OBEDIENCE_S = 20.0


@dataclass(frozen=True)
class Place:
    """What every trial of a study has in common: where its records go, and where it is trained."""

    study: str
    output_dir: Path
    cluster: AnyCluster
    threads: int


class Way(Protocol):
    """A run under way."""

    def begin(self) -> None:
        """Start it, or find it started. Raises UserError."""

    def is_over(self) -> bool:
        """Whether it has ended, and its record says how."""

    def end(self) -> None:
        """Have it write a checkpoint and end; returns when it has."""

    def running_s(self) -> float:
        """How long it runs now, waiting in a queue left out."""


def way_for(run: Run, place: Place) -> Way:
    """The way that a place trains its runs."""
    kind = SlurmWay if isinstance(place.cluster, SlurmCluster) else LocalWay
    return kind(run, place)


class LocalWay:
    """A process of this machine, that ends with the one it was started by."""

    def __init__(self, run: Run, place: Place) -> None:
        self.run, self.place = run, place
        self.folder = place.output_dir / run.folder_name
        self._child: Child | None = None
        self._begun_at = time.monotonic()

    def begin(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while is_locked(RunPaths(self.folder)) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        self._begun_at = time.monotonic()
        assert isinstance(self.place.cluster, LocalCluster)
        variables = dict(self.place.cluster.environment)
        try:
            self._child = start(
                self.run, self.folder, self.place.cluster.ranks, self.place.threads, variables
            )
        except OSError as error:
            raise UserError(f"{self.folder}: its process could not be started: {error}") from None

    def is_over(self) -> bool:
        if self._child is None:
            return True
        if self._child.process.poll() is None:
            return False
        settle(self._child)
        self._child = None
        return True

    def end(self) -> None:
        if self._child is not None:
            end([self._child.process])
            self.is_over()

    def running_s(self) -> float:
        return time.monotonic() - self._begun_at


class SlurmWay:
    """A Slurm job, as `shiftbench submit` makes it."""

    def __init__(self, run: Run, place: Place) -> None:
        self.run, self.place = run, place
        self.folder = place.output_dir / run.folder_name
        self._looked_at = self._running_since = -float("inf")
        self._state: State = "queued"

    def begin(self) -> None:
        submit([self.run], self.place.cluster, self.place.output_dir, self.place.study)

    def is_over(self) -> bool:
        status = read_status(RunPaths(self.folder))
        if status.state in ("completed", "diverged", "stopped"):
            return True
        silent_s = time.time() - float(status.content.get("updated_at", 0.0))
        if status.state == "running" and silent_s < SILENCE_S:
            self._note("running")
            return False
        # Queued, preempted, failed (which a job may come back from), or silent: the scheduler knows.
        if time.monotonic() - self._looked_at < LOOK_EVERY_S:
            return False
        try:
            self._note(self._look().state)
        except SlurmError:
            return False  # asked again: while Slurm is down nothing ends
        return self._state not in ("queued", "running")

    def _look(self) -> RunStatus:
        self._looked_at = time.monotonic()
        (one,) = overview(self.place.output_dir).select([str(self.folder)])
        return one

    def _note(self, state: State) -> None:
        if state == "running" and self._state != "running":
            self._running_since = time.monotonic()
        self._state = state

    def end(self) -> None:
        deadline = time.monotonic() + (OBEDIENCE_S if read_request(RunPaths(self.folder)) else 0.0)
        self._looked_at = -float("inf")
        while not (is_over := self.is_over()) and self._state == "running" and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if is_over:
            return
        job = self._look().job
        if job is not None:
            ask("scancel", job)
        deadline = time.monotonic() + PATIENCE_S
        while not self.is_over() and time.monotonic() < deadline:
            time.sleep(1.0)
            self._looked_at = -float("inf")

    def running_s(self) -> float:
        return time.monotonic() - self._running_since if self._state == "running" else 0.0


def settle_request(run: Run, folder: Path) -> None:
    """Have the record of a run that has ended say what was asked of it, where it could not say so itself."""
    request, status = read_request(RunPaths(folder)), read_status(RunPaths(folder))
    if request is None or status.state in ("completed", "diverged", request.state):
        return
    with RecordWriter(run, folder) as record:
        by = {"stopped_by": request.by, "stopped_after_epoch": request.epoch}
        at = status.content.get("updated_at", time.time())
        record.status(request.state, reason=request.reason, updated_at=at, **by)
