"""Where a trial's run is trained: as a process beside this one, or as a Slurm job of its own.

Either way it is an ordinary run. One that somebody else trains is followed, and never ended from here.
"""

import logging
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jobs.cluster.backends import job_ids
from jobs.cluster.clusters import AnyCluster, LocalCluster, SlurmCluster
from jobs.cluster.ledger import Ledger
from jobs.cluster.overview import active_jobs, overview
from jobs.cluster.slurm_commands import SlurmError, ask
from jobs.cluster.submit import submit
from jobs.local.child import WAS_KILLED, Child, settle, start
from jobs.local.fork_client import starter_of
from jobs.local.process import end
from suite.errors import UserError
from suite.experiment import Run
from suite.files import is_locked
from suite.paths import RunPaths
from suite.record import SETTLED, RecordWriter, State, read_status, read_stop_request

POLL_S = 0.1
# A process that lost its driver writes a checkpoint before it ends.
PATIENCE_S = 60.0
LOOK_EVERY_S = 10.0
SILENCE_S = 60.0
# A run that is asked to stop looks at its folder every few seconds; Slurm's cancelling is for what does not.
OBEDIENCE_S = 20.0
# In the environment of every process that a driver's trials start, so that it finds them again.
DRIVER_VARIABLE = "SHIFTBENCH_STUDY_DRIVER"
JOB = re.compile(r"\d+(_\d+)?")

log = logging.getLogger("shiftbench")


@dataclass(frozen=True)
class RunContext:
    """What every trial of a study has in common: where its records go, and where it is trained.

    `threads`: CPU threads of a rank, unless the driver was given `omp_num_threads`. `driver`: its token.
    `fork_server`: the socket of the driver's; None for plain processes.
    """

    study: str
    output_dir: Path
    cluster: AnyCluster
    threads: int
    omp_num_threads: str | None
    driver: str
    fork_server: Path | None = None

    def restore_environment(self) -> None:
        """Ray sets this for its workers, and processes and jobs that they start would keep it."""
        os.environ.pop("OMP_NUM_THREADS", None)
        if self.omp_num_threads is not None:
            os.environ["OMP_NUM_THREADS"] = self.omp_num_threads


class Runner(Protocol):
    """A run under way. `poll_s`: how long to wait between two looks."""

    poll_s: float

    def begin(self) -> None:
        """Start it, or find it started. Raises UserError; SlurmError where it was Slurm that refused."""

    def is_over(self) -> bool:
        """Whether it has ended, and its record says how."""

    def is_ours(self) -> bool:
        """Whether this study has started it, and may end it."""

    def end(self) -> None:
        """Have it write a checkpoint and end, if it is ours; returns when it has."""

    def running_s(self) -> float:
        """How long it runs now, waiting in a queue left out."""


def runner_for(run: Run, place: RunContext) -> Runner:
    """Return the runner that a place trains its runs."""
    kind = SlurmRunner if isinstance(place.cluster, SlurmCluster) else LocalRunner
    return kind(run, place)


def wait_for_others(folder: Path, halt: Path) -> None:
    """A former driver's process may be writing its checkpoint still. `halt`: what ends all trials."""
    deadline = time.monotonic() + PATIENCE_S
    while is_locked(RunPaths(folder).lock) and time.monotonic() < deadline and not halt.exists():
        time.sleep(POLL_S)


class LocalRunner:
    """A process of this machine, that ends with the one it was started by."""

    poll_s = POLL_S

    def __init__(self, run: Run, place: RunContext) -> None:
        self.run, self.place = run, place
        self.folder = place.output_dir / run.folder_name
        self._child: Child | None = None
        self._has_begun = False
        self._begun_at = time.monotonic()

    def begin(self) -> None:
        if is_locked(RunPaths(self.folder).lock):  # by somebody who does not leave: `shiftbench run`, say
            return
        assert isinstance(self.place.cluster, LocalCluster)
        variables = {**self.place.cluster.environment, DRIVER_VARIABLE: self.place.driver}
        ranks = self.place.cluster.ranks
        try:
            start_process = starter_of(self.place.fork_server)
            self._child = start(self.run, self.folder, ranks, self.place.threads, variables, start_process)
            self._has_begun, self._begun_at = True, time.monotonic()
        except OSError as error:
            raise UserError(f"{self.folder}: its process could not be started: {error}") from None

    def is_over(self) -> bool:
        if self._child is None:
            return not is_locked(RunPaths(self.folder).lock)
        if self._child.process.poll() is None:
            return False
        settle(self._child)
        self._child = None
        return True

    def is_ours(self) -> bool:
        return self._has_begun

    def end(self) -> None:
        if self._child is not None:
            end([self._child.process])
            self.is_over()

    def running_s(self) -> float:
        return time.monotonic() - self._begun_at if self._child is not None else 0.0


class SlurmRunner:
    """A Slurm job, as `shiftbench submit` makes it."""

    poll_s = 1.0  # its record lies on a file system that many share

    def __init__(self, run: Run, place: RunContext) -> None:
        self.run, self.place = run, place
        self.folder = place.output_dir / run.folder_name
        self._looked_at = self._running_since = -float("inf")
        self._state: State = "queued"

    def begin(self) -> None:
        submit([self.run], self.place.cluster, self.place.output_dir, self.place.study, is_driven=True)

    def is_over(self) -> bool:
        status = read_status(RunPaths(self.folder))
        if status.state in SETTLED:
            return True
        silent_s = time.time() - float(status.content.get("updated_at", 0.0))
        if status.state == "running" and silent_s < SILENCE_S:
            self._note("running", float(status.content.get("started_at", time.time())))
            return False
        # Queued, preempted, failed, or silent: the scheduler knows.
        if time.monotonic() - self._looked_at < LOOK_EVERY_S:
            return False
        try:
            state = self._look()
            # It may come back: a node has failed, or it was warned, and Slurm has not put it back yet.
            is_over = state not in ("queued", "running") and self._job() is None
        except SlurmError:
            return False  # asked again: while Slurm is down nothing ends
        self._note(state, time.time())
        return is_over

    def _look(self) -> State:
        self._looked_at = time.monotonic()
        seen = overview(self.place.output_dir, only=[self.folder])
        if seen.notes:
            raise SlurmError("; ".join(seen.notes))
        return seen.runs[0].state

    def _job(self) -> str | None:
        """The job that is queued or running for this run, if there is one."""
        return active_jobs(Ledger(self.place.output_dir)).get(self.folder.name)

    def _note(self, state: State, since: float) -> None:
        if state == "running" and self._state != "running":
            self._running_since = since
        self._state = state

    def is_ours(self) -> bool:
        ledger = Ledger(self.place.output_dir)
        mine = [one for one in ledger.read() if self.folder.name in one.folders][-1:]
        if not mine or mine[0].driver != self.place.study or not ledger.is_ours(mine[0]):
            return False
        status = read_status(RunPaths(self.folder))  # somebody may have gone on with it elsewhere
        return status.state != "running" or status.content.get("job") == job_ids(mine[0]).get(
            self.folder.name
        )

    def end(self) -> None:
        if not self.is_ours():
            return
        try:
            self._end()
        except SlurmError as error:  # the driver ends what is left, or the next one finds it
            log.warning("%s: its job could not be ended: %s", self.run.label, error)

    def _end(self) -> None:
        deadline = time.monotonic() + (OBEDIENCE_S if read_stop_request(RunPaths(self.folder)) else 0.0)
        self._looked_at = -float("inf")
        while not (is_over := self.is_over()) and self._state == "running" and time.monotonic() < deadline:
            time.sleep(POLL_S)
        job = self._job() or ""
        if is_over or not JOB.fullmatch(job):
            return
        ask("scancel", job)
        deadline = time.monotonic() + PATIENCE_S
        while not self.is_over() and time.monotonic() < deadline:
            time.sleep(1.0)
            self._looked_at = -float("inf")

    def running_s(self) -> float:
        return time.time() - self._running_since if self._state == "running" else 0.0


def settle_request(run: Run, folder: Path) -> None:
    """Have the record of a run that has ended say what was asked of it, where it could not say so itself.

    A failure of its own stays one. Raises UserError when the record cannot be written.
    """
    request, status = read_stop_request(RunPaths(folder)), read_status(RunPaths(folder))
    if request is None or not has_been_ended(status.state, status.died_silently, status.reason):
        return
    with RecordWriter(run, folder) as record:
        by = {"stopped_by": request.by, "stopped_after_epoch": request.epoch}
        at = status.content.get("updated_at", time.time())
        record.status(request.state, reason=f"ended by {request.reason}", updated_at=at, **by)


def has_been_ended(state: State, died_silently: bool, reason: str | None) -> bool:
    """Whether a run was ended from outside, rather than by an error of its own."""
    if state in ("preempted", "cancelled", "queued") or died_silently:
        return True
    return state == "failed" and WAS_KILLED in (reason or "")
