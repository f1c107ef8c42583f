"""Runs as processes on this machine: start, follow, stop.

The launcher never imports torch. Each run is a process (or torchrun's group of them) that writes its own
record; the launcher reads records to show progress and to tell how a run ended.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from jobs import exit_codes
from jobs.progress import ProgressView
from suite.errors import UserError
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import Record, RecordWriter, is_locked

POLL_S = 0.2


@dataclass
class Outcome:
    """How each run of a launch ended, by folder."""

    skipped: list[Path] = field(default_factory=list)
    completed: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, int]] = field(default_factory=list)
    stopped_by: signal.Signals | None = None

    @property
    def exit_code(self) -> int:
        if self.stopped_by is signal.SIGINT:
            return exit_codes.INTERRUPTED
        if self.stopped_by is not None:
            return exit_codes.PREEMPTED
        codes = {code for _, code in self.failed}
        if codes == {exit_codes.BAD_USAGE}:
            return exit_codes.BAD_USAGE
        if codes == {exit_codes.PREEMPTED}:
            return exit_codes.PREEMPTED
        return exit_codes.SOME_RUNS_FAILED if codes else exit_codes.DONE


def run_all(runs: Sequence[Run], output_dir: Path, jobs: int, ranks: int, view: ProgressView) -> Outcome:
    """Train every run that is not completed, `jobs` at a time with `ranks` processes each.

    Raises UserError before anything starts when a folder cannot be written or is being trained in.
    """
    outcome = Outcome()
    waiting = [run for run in runs if not _is_completed(output_dir / run.folder_name)]
    outcome.skipped = [output_dir / run.folder_name for run in runs if run not in waiting]
    for run in waiting:
        _check(run, output_dir, ranks)
    view.start(total=len(runs), skipped=len(outcome.skipped))
    running: dict[Path, subprocess.Popen[bytes]] = {}
    with _stop_signals() as stop, view:
        while (waiting and stop.first is None) or running:
            while waiting and len(running) < jobs and stop.first is None:
                run = waiting.pop(0)
                folder = output_dir / run.folder_name
                running[folder] = _start(run, folder, jobs, ranks)
                view.started(folder, run)
            time.sleep(POLL_S)
            stop.forward(running.values())
            for folder, process in list(running.items()):
                code = process.poll()
                view.update(folder, RunPaths(folder))
                if code is not None:
                    del running[folder]
                    _settle(folder, code, outcome)
                    view.ended(folder, Record.read(folder))
    outcome.stopped_by = stop.first
    return outcome


def _is_completed(folder: Path) -> bool:
    return (folder / "run.json").exists() and Record.read(folder).state == "completed"


def _check(run: Run, output_dir: Path, ranks: int) -> None:
    """Refuse what cannot work before the first run starts."""
    folder = output_dir / run.folder_name
    if is_locked(RunPaths(folder)):
        raise UserError(f"{folder}: another process is training this run; wait for it, or stop it")
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir) as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        raise UserError(f"{output_dir}: cannot be written: {error.strerror}") from None
    if ranks > 1:
        try:
            run.batch.accumulation_steps(ranks)
        except ValueError as error:
            raise UserError(f"batch: {error}") from None


def _start(run: Run, folder: Path, jobs: int, ranks: int) -> "subprocess.Popen[bytes]":
    with RecordWriter(run, folder):
        pass  # leaves the run.json that the process reads
    command = [sys.executable, "-m", "jobs.worker", str(folder)]
    if ranks > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        command = [sys.executable, *torchrun, "-m", "jobs.worker", str(folder)]
    env = dict(os.environ)
    if run.system.torch_threads is None:
        # Otherwise every process takes every core, and they stand in one another's way.
        env.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // (jobs * ranks))))
    with RunPaths(folder).log.open("ab") as log:
        # A session of its own: Ctrl-C reaches the launcher alone, which stops its runs in good order.
        return subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)


def _settle(folder: Path, code: int, outcome: Outcome) -> None:
    """File how a run ended; what its record says counts, the exit code where it could not say."""
    record = Record.read(folder)
    if record.state == "completed":
        outcome.completed.append(folder)
        return
    by_state = {"preempted": exit_codes.PREEMPTED, "diverged": exit_codes.SOME_RUNS_FAILED}
    outcome.failed.append((folder, by_state.get(record.state, code if code > 0 else exit_codes.FAILURE)))
    if record.died_silently or "pid" not in record.status:
        end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        with RecordWriter(record.run, folder) as writer:
            writer.status("failed", reason=f"its process {end}; see {writer.paths.log.name}")


class _Stop:
    """Stop signals to the launcher: the first asks its runs to checkpoint and end, a second ends them."""

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self._to_send: list[signal.Signals] = []

    def handle(self, number: int, _: FrameType | None) -> None:
        self._to_send.append(signal.SIGTERM if self.first is None else signal.SIGKILL)
        self.first = self.first or signal.Signals(number)

    def forward(self, processes: Iterable["subprocess.Popen[bytes]"]) -> None:
        """Send what came since the last call. Not from the handler: a process may be about to start there."""
        pending, self._to_send = self._to_send, []
        for number in pending:
            for process in processes:
                if process.poll() is None:
                    os.killpg(process.pid, number)


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    stop = _Stop()
    former = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
