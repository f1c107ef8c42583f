"""Ray Tune's own folder of a study, where users of Tune look for it."""

import os
import shutil
from hashlib import sha256
from pathlib import Path

from suite.errors import UserError
from suite.studies.study import Study

MARK = ".shiftbench-study"
COMPLETE = "every trial has ended"


def tune_folder(study: Study, output_dir: Path) -> Path:
    """Returns the folder for Tune's own files. Raises UserError if it exists and is not a study's."""
    wanted = study.spec.trials.ray_results
    above = Path(os.path.expandvars(wanted or "~/ray_results")).expanduser().absolute()
    study_folder = str((output_dir / "studies" / study.name).resolve())
    folder = above / f"{study.name}-{sha256(study_folder.encode()).hexdigest()[:6]}"
    if folder.exists() and not (folder / MARK).exists():
        raise UserError(f"{folder}: was not made by a study; move it away")
    return folder


def recreate(folder: Path, study_folder: Path) -> None:
    """Empties the folder: Tune writes its files anew from the records. Raises UserError."""
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        (folder / MARK).write_text(f"{study_folder}\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}; see trials.ray_results") from None


def mark_complete(folder: Path) -> None:
    """Notes that every trial has ended and has its results there."""
    with (folder / MARK).open("a", encoding="utf-8") as mark:
        mark.write(f"{COMPLETE}\n")


def is_complete(folder: Path) -> bool:
    """Whether every trial has its results there."""
    return (folder / MARK).exists() and COMPLETE in (folder / MARK).read_text(encoding="utf-8").splitlines()
