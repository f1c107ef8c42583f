"""Tune's own folder of a study, where a user of Tune looks for it."""

import os
import shutil
from hashlib import sha256
from pathlib import Path

from suite.errors import UserError
from suite.studies.study import Study

MARK = ".shiftbench-study"
WHOLE = "every trial has ended"


def tune_folder(study: Study, output_dir: Path) -> Path:
    """Where Tune's own files go. Raises UserError when something else lies there."""
    wanted = study.spec.trials.ray_results
    above = Path(os.path.expandvars(wanted or "~/ray_results")).expanduser().absolute()
    study_folder = str((output_dir / "studies" / study.name).resolve())
    folder = above / f"{study.name}-{sha256(study_folder.encode()).hexdigest()[:6]}"
    if folder.exists() and not (folder / MARK).exists():
        raise UserError(f"{folder}: was not made by a study; move it away")
    return folder


def make_anew(folder: Path, study_folder: Path) -> None:
    """All that Tune's files tell is told again from the records. Raises UserError."""
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        (folder / MARK).write_text(f"{study_folder}\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}; see trials.ray_results") from None


def note_whole(folder: Path) -> None:
    """Every trial has ended, and is told of there."""
    with (folder / MARK).open("a", encoding="utf-8") as mark:
        mark.write(f"{WHOLE}\n")


def is_whole(folder: Path) -> bool:
    """Whether nothing is to be added to it."""
    return (folder / MARK).exists() and WHOLE in (folder / MARK).read_text(encoding="utf-8").splitlines()
