"""Ending what a study's driver would leave behind: processes and jobs that nobody follows any more."""

import os
import signal
import socket
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from jobs.slurm.commands import SlurmError, ask
from jobs.status.overview import active_jobs, overview
from jobs.submissions.ledger import Ledger
from jobs.tune.ways import settle_request
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import is_locked, read_status
from suite.record.files import read_json

GRACE_S = 30.0
HASTE_S = 2.0
POLL_S = 0.2


def our_jobs(output_dir: Path, folders: Iterable[str]) -> dict[str, str]:
    """Slurm jobs of ours that are queued or running, by the name of their run's folder. Raises SlurmError."""
    ledger = Ledger(output_dir)
    ours = {name for one in ledger.read() if one.is_slurm and ledger.is_ours(one) for name in one.folders}
    if not ours:
        return {}
    wanted = ours & set(folders)
    return {name: job for name, job in active_jobs(ledger).items() if name in wanted and job[:1].isdigit()}


def cancel_orphans(study: str, output_dir: Path, runs: Sequence[Run]) -> list[str]:
    """Cancel jobs that a former driver of this study left for runs that are no part of it any more.

    Returns the names of their runs' folders. Raises SlurmError.
    """
    wanted = {run.folder_name for run in runs}
    names = {paths.parent.name for paths in output_dir.glob("*/run.json")} - wanted
    of_study = [n for n in names if (read_json(output_dir / n / "run.json") or {}).get("experiment") == study]
    jobs = our_jobs(output_dir, of_study)
    if jobs:
        ask("scancel", *jobs.values())
    return sorted(jobs)


def leave_nothing(runs: Sequence[Run], output_dir: Path, is_slurm: bool, in_haste: bool) -> None:
    """End every process of these runs on this machine, or every job, and have their records say so.

    `in_haste`: without waiting for checkpoints. Raises SlurmError when jobs are left, since Slurm does not
    answer.
    """
    if is_slurm:
        _end_jobs(output_dir, {run.folder_name for run in runs}, in_haste)
    else:
        _end_processes([output_dir / run.folder_name for run in runs], HASTE_S if in_haste else GRACE_S)
    for run in runs:
        if (output_dir / run.folder_name).exists():
            settle_request(run, output_dir / run.folder_name)


def _end_jobs(output_dir: Path, names: set[str], in_haste: bool) -> None:
    jobs = our_jobs(output_dir, names)
    if not jobs:
        return
    if in_haste:
        with suppress(SlurmError):  # those that wait have nothing to kill
            ask("scancel", "--signal=KILL", *jobs.values())
    ask("scancel", *jobs.values())
    deadline = time.monotonic() + 2 * GRACE_S
    while our_jobs(output_dir, names) and time.monotonic() < deadline:
        time.sleep(1.0)
    overview(output_dir)  # writes down what never began


def _end_processes(folders: Sequence[Path], grace_s: float) -> None:
    """They were told already by the end of the process that started them."""
    deadline = time.monotonic() + grace_s
    here = [folder for folder in folders if _is_here(folder)]
    while here and time.monotonic() < deadline:
        time.sleep(POLL_S)
        here = [folder for folder in here if _is_here(folder)]
    for folder in here:
        pid = read_status(RunPaths(folder)).content.get("pid")
        if isinstance(pid, int):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _is_here(folder: Path) -> bool:
    if not folder.exists() or not is_locked(RunPaths(folder)):
        return False
    return read_status(RunPaths(folder)).content.get("host") == socket.gethostname()
