"""Checks before the first run starts, and of folders that hold a run already."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from suite.errors import UserError
from suite.experiment import Run
from suite.files import is_locked
from suite.paths import RunPaths
from suite.record import Record
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
    return (folder / "run.json").exists() and Record.read(folder).state == "completed"


def read_run(folder: Path) -> Run:
    """Return the run of a folder. Raises UserError when its run.json is not of this version."""
    try:
        return Record.read(folder).run
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
