"""Measures trained runs in processes of their own, several at a time."""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from jobs import exit_codes
from jobs.local.child import threads_of_a_rank
from jobs.local.process import THREADS, ProcessSpec, RunProcess, StartProcess, end
from suite.errors import UserError
from suite.experiment import Run
from suite.paths import RunPaths

log = logging.getLogger("shiftbench")
POLL_S = 0.05


def measured_in_processes(
    runs: Sequence[Run],
    output_dir: Path,
    is_measured: Callable[[Run, RunPaths], bool],
    module: str,
    plan_of: Callable[[Run], str],
    jobs: int,
    start_process: StartProcess,
) -> Iterator[tuple[Run, str | None]]:
    """Measure those runs that are not measured, `jobs` at a time. Yields each of them and its error.

    `is_measured` may raise UserError, which is then the run's error. `module` is run with the run's folder
    and what `plan_of` returns; the last line of its output is the error. With `jobs` above one, each process
    has one thread: networks as small as ours gain nothing by more.
    """
    waiting = []
    for run in runs:
        if run.task.kind != "classification":
            yield run, f"it is of {run.task.kind}, and only classification is measured"
            continue
        try:
            if not is_measured(run, RunPaths(output_dir / run.folder_name)):
                waiting.append(run)
        except UserError as error:
            yield run, str(error)
    environment = {THREADS: str(threads_of_a_rank(1)), **os.environ} | ({THREADS: "1"} if jobs > 1 else {})
    running: list[tuple[Run, Path, RunProcess]] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run, output = waiting.pop(0), Path(folder) / str(len(waiting))
                    spec = ProcessSpec(
                        module, (str(output_dir / run.folder_name), plan_of(run)), environment, output
                    )
                    running.append((run, output, start_process(spec)))
                time.sleep(POLL_S)
                for one in list(running):
                    if (code := one[2].poll()) is not None:
                        running.remove(one)
                        yield one[0], _error_of(one[0], module, code, one[1].read_text())
        finally:
            end([process for *_, process in running])


def last_step(paths: RunPaths) -> int:
    """Return the step of a run's newest checkpoint. Raises UserError without one."""
    if steps := paths.checkpoint_steps():
        return steps[-1]
    raise UserError(f"{paths.checkpoints}: has no checkpoint to measure; remove the run's folder")


def _error_of(run: Run, module: str, code: int, output: str) -> str | None:
    if code == exit_codes.DONE:
        return None
    if code != exit_codes.BAD_USAGE:
        log.error("%s on %s: exit code %d\n%s", module, run.folder_name, code, output)
    return output.strip().rpartition("\n")[2] if code > 0 else "the process that measured it died"
