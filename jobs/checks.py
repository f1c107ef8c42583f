"""Checks before the first run starts, and of folders that hold a run already."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from pydantic import ValidationError

from suite.data.workers import shared_memory_of_run, shared_memory_shortage
from suite.errors import UserError
from suite.experiment import Run
from suite.files import NoLocks, is_locked, locked
from suite.paths import RunPaths
from suite.record import read_status
from suite.record.reader import read_config
from suite.specs.process import LOGGERS
from suite.wording import explain


@contextmanager
def writing(where: Path) -> Iterator[None]:
    """Raise UserError instead of OSError, with the sentence that `where` cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{where}: cannot be written: {error.strerror}") from None


def is_completed(folder: Path) -> bool:
    """Return whether the run in `folder` is completed. Raises UserError when its record is not readable."""
    try:
        if not (folder / "run.json").exists():
            return False
        read_config(RunPaths(folder))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
    if damage := (status := read_status(RunPaths(folder))).damage:
        raise UserError(damage)
    return status.state == "completed"


def read_run(folder: Path) -> Run:
    """Return the run of a folder. Raises UserError when its run.json is not of this version."""
    try:
        config, _ = read_config(RunPaths(folder))
        config.pop("run_id", None)
        return Run.model_validate(config)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise UserError(f"{folder}: run.json is not a run of this version: {explain(error, Run)}") from None


def check_folders(runs: Sequence[Run], output_dir: Path) -> None:
    """Create `output_dir`. Raises UserError when it cannot be written or one of the runs is being trained."""
    for folder in (output_dir / run.folder_name for run in runs):
        if is_locked(RunPaths(folder).lock):
            raise UserError(f"{folder}: another process is training this run; wait for it, or stop it")
    with writing(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir) as file:
            file.write(b"\0" * 4096)
        check_locks(output_dir)


def check_shared_memory(runs: Sequence[Run], at_a_time: int, ranks: int) -> None:
    """Raise UserError when the loaders of so many runs at a time, of so many ranks, do not fit into it."""
    most = sorted(map(shared_memory_of_run, runs), reverse=True)[:at_a_time]
    needed_bytes = sum(most) * ranks
    if needed_bytes and (shortage := shared_memory_shortage(needed_bytes, is_idle=True)):
        raise UserError(shortage)


def check_loggers(runs: Sequence[Run]) -> None:
    """Raise UserError when a logger that the runs ask for is not installed."""
    for name in dict.fromkeys(name for run in runs for name in run.system.loggers):
        if find_spec(LOGGERS[name].package) is None:
            raise UserError(f"system.loggers: {name} is not installed: {LOGGERS[name].install}")


def check_locks(output_dir: Path) -> None:
    """Raise UserError when the file system of a folder has no locks, which keep runs apart."""
    with tempfile.NamedTemporaryFile(dir=output_dir, prefix=".lock-") as file:
        try:
            locked(Path(file.name), wait=False).close()
        except NoLocks as error:
            raise UserError(error.sentence(output_dir)) from None
