"""Trains a trial's run: as a process of this machine, or as a Slurm job of its own.

Either way it is an ordinary run. A run that another process trains is followed, and never ended from here.
"""

import logging
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jobs.cluster.backend import ShownState
from jobs.cluster.clusters import AnyCluster, backend_of, is_slurm
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
from suite.record import SETTLED, RecordWriter, read_status, read_stop_request
from suite.studies.study import Study

POLL_S = 0.05
# For a process that lost its driver, and writes a checkpoint before it ends.
PATIENCE_S = 60.0
LOOK_EVERY_S = 10.0
SILENCE_S = 60.0
# A run reads stop requests every few seconds. What has not stopped after this time is cancelled by Slurm.
STOP_REQUEST_S = 20.0
# In the environment of every process that a driver's trials start: the driver finds them by it.
DRIVER_VARIABLE = "SHIFTBENCH_STUDY_DRIVER"
JOB = re.compile(r"\d+(_\d+)?")  # of Slurm; the queue of another user says more

log = logging.getLogger("shiftbench")


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a study share: where records go, and where runs are trained.

    `threads`: CPU threads of a rank, unless `omp_num_threads` was set for the driver. `driver`: its token.
    `is_resumed`: a former driver began the study. `fork_server`: the socket of the driver's fork server;
    None: runs start as plain processes.
    """

    study: Study
    output_dir: Path
    cluster: AnyCluster
    threads: int
    omp_num_threads: str | None
    driver: str
    is_resumed: bool = False
    fork_server: Path | None = None

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables of local runs."""
        return {**self.cluster.variables, DRIVER_VARIABLE: self.driver}

    def restore_environment(self) -> None:
        """Undo OMP_NUM_THREADS, which Ray sets for its workers, and which runs would inherit."""
        os.environ.pop("OMP_NUM_THREADS", None)
        if self.omp_num_threads is not None:
            os.environ["OMP_NUM_THREADS"] = self.omp_num_threads


class Runner(Protocol):
    """Trains one run. `poll_s`: seconds to wait between two calls of `is_over`."""

    poll_s: float

    def begin(self) -> None:
        """Start the run, or find it started. Raises UserError, or SlurmError where Slurm refused."""

    def is_over(self) -> bool:
        """Whether the run has ended, and its record says how."""

    def is_ours(self) -> bool:
        """Whether this study has started the run, and may end it."""

    def end(self) -> None:
        """End a run of ours after a checkpoint, and return when it has ended."""

    def running_s(self) -> float:
        """Seconds since the run started, without its time in a queue."""


def runner_for(run: Run, context: TrialContext) -> Runner:
    """Return the runner of a run on the context's cluster."""
    kind = SlurmRunner if is_slurm(context.cluster) else LocalRunner
    return kind(run, context)


def wait_for_others(folder: Path, stop_file: Path) -> None:
    """Wait while another process holds a run folder: a former driver's run may still write a checkpoint.

    Returns after PATIENCE_S, or once `stop_file`, which ends all trials, exists.
    """
    deadline = time.monotonic() + PATIENCE_S
    while is_locked(RunPaths(folder).lock) and time.monotonic() < deadline and not stop_file.exists():
        time.sleep(POLL_S)


class LocalRunner:
    """Trains a run as a process of this machine, which ends with the one that started it."""

    poll_s = POLL_S

    def __init__(self, run: Run, context: TrialContext) -> None:
        self.run, self.context = run, context
        self.folder = context.output_dir / run.folder_name
        self._child: Child | None = None
        self._has_begun = False
        self._begun_at = time.monotonic()

    def begin(self) -> None:
        if is_locked(RunPaths(self.folder).lock):  # by a process that continues, such as `shiftbench run`
            return
        context = self.context
        how = (context.cluster.ranks, context.threads, context.variables, starter_of(context.fork_server))
        try:
            self._child = start(self.run, self.folder, *how)
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
    """Trains a run as a Slurm job, as `shiftbench submit` makes it."""

    poll_s = 1.0  # its record is on a shared file system

    def __init__(self, run: Run, context: TrialContext) -> None:
        self.run, self.context = run, context
        self.folder = context.output_dir / run.folder_name
        self._looked_at = self._running_since = -float("inf")
        self._state: ShownState = "queued"

    def begin(self) -> None:
        context = self.context
        submit([self.run], context.cluster, context.output_dir, context.study.name, is_driven=True)

    def is_over(self) -> bool:
        status = read_status(RunPaths(self.folder))
        if status.state in SETTLED:
            return True
        silent_s = time.time() - float(status.content.get("updated_at", 0.0))
        if status.state == "running" and silent_s < SILENCE_S:
            self._note("running", float(status.content.get("started_at", time.time())))
            return False
        # Queued, preempted, failed, or silent: ask the scheduler.
        if time.monotonic() - self._looked_at < LOOK_EVERY_S:
            return False
        try:
            self._looked_at = time.monotonic()
            seen = overview(self.context.output_dir, only=[self.folder])
            state = seen.runs[0].state
            # After a node failure or a warning Slurm may requeue the job: it is over once it left the queue.
            is_over = state not in ("queued", "running", "cancelling") and self._job() is None
        except SlurmError:
            return False
        if seen.notes:  # asked again later: while Slurm is down no run counts as ended
            return False
        self._note(state, time.time())
        return is_over

    def _job(self) -> str | None:
        """The job that is queued or running for this run, or None."""
        active = active_jobs(Ledger(self.context.output_dir)).get(self.folder.name)
        return None if active is None else active.text

    def _note(self, state: ShownState, since: float) -> None:
        if state == "running" and self._state != "running":
            self._running_since = since
        self._state = state

    def is_ours(self) -> bool:
        ledger = Ledger(self.context.output_dir)
        mine = [one for one in ledger.read() if self.folder.name in one.folders][-1:]
        if not mine or mine[0].driver != self.context.study.name or not ledger.is_ours(mine[0]):
            return False
        job = backend_of(mine[0]).job_ids(mine[0]).get(self.folder.name)
        status = read_status(RunPaths(self.folder))
        return status.state != "running" or status.content.get("job") == job  # else resumed elsewhere

    def end(self) -> None:
        if not self.is_ours():
            return
        deadline = time.monotonic() + (STOP_REQUEST_S if read_stop_request(RunPaths(self.folder)) else 0.0)
        self._looked_at = -float("inf")
        while not (is_over := self.is_over()) and self._state == "running" and time.monotonic() < deadline:
            time.sleep(POLL_S)
        try:
            if is_over or not JOB.fullmatch(job := self._job() or ""):
                return  # nothing to cancel, or a job that is not this study's
            ask("scancel", job)
        except SlurmError as error:  # the driver ends it, or the next driver finds it
            log.warning("%s: its job could not be ended: %s", self.run.label, error)
            return
        deadline = time.monotonic() + PATIENCE_S
        while not self.is_over() and time.monotonic() < deadline:
            time.sleep(1.0)
            self._looked_at = -float("inf")

    def running_s(self) -> float:
        return time.time() - self._running_since if self._state == "running" else 0.0


def settle_request(run: Run, folder: Path) -> None:
    """Write the stop request that ended a run into its record, if the run could not do so itself.

    A run that failed by itself stays failed. Where the record cannot be written, the next driver settles it.
    """
    if (request := read_stop_request(RunPaths(folder))) is None:
        return
    status = read_status(RunPaths(folder))
    was_killed = status.state == "failed" and WAS_KILLED in (status.reason or "")
    if not (status.died_silently or was_killed or status.state in ("preempted", "cancelled", "queued")):
        return
    try:
        with RecordWriter(run, folder) as record:
            by = {"stopped_by": request.by, "stopped_after_epoch": request.epoch}
            at = status.content.get("updated_at", time.time())
            record.status(request.state, reason=f"ended by {request.reason}", updated_at=at, **by)
    except (UserError, OSError) as error:
        log.warning("%s: its end could not be recorded: %s", run.label, error)
