"""A study's own folder (the study as it began, and what happened since), and Ray Tune's folder of it.

<output_dir>/studies/<name>/
  study.json      its spec and base when it began; a resumed study must be the same
  points.jsonl    what Optuna proposed, in order
  judged.jsonl    which epochs of which runs the scheduler has judged
  halt.json       why all trials end now
  lock            held by the driver
  answers.json, results.*   written when the driver ends

The runs themselves lie beside the others in the output folder.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from suite.errors import UserError
from suite.files import NoLocks, append_line, locked, read_json, read_lines, write_atomically
from suite.studies.space import Point
from suite.studies.spec import StudySpec
from suite.studies.study import Study
from suite.user import expand_path

SCHEMA_VERSION = 1
# In Tune's own folder, where users of Tune look.
MARK = ".shiftbench-study"
COMPLETE = "every trial has ended"
# Where and how long the study runs: these decide no result.
FREE = {"trials", "budget", "experiment", "overrides"}


class StudyFolder:
    """The folder of one study."""

    def __init__(self, study: Study, output_dir: Path) -> None:
        self.study = study
        self.folder = output_dir / "studies" / study.name
        self.is_begun = self.is_changed = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder's lock. Raises UserError if another driver has it or nothing can be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = locked(self.folder / "lock", wait=False)
        except BlockingIOError:
            raise UserError(f"{self.folder}: another `shiftbench tune` runs this study now") from None
        except NoLocks as error:
            raise UserError(error.sentence(self.folder)) from None
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written: {error.strerror}") from None
        with lock:
            yield

    def compare(self, accept: bool) -> None:
        """Compare the study with the one that was begun here. Raises UserError with what differs.

        Sets `is_begun`, and with `accept` also `is_changed` instead of raising.
        """
        path = self.folder / "study.json"
        former = read_json(path)
        self.is_begun = isinstance(former, dict)
        if not self.is_begun:
            return
        if former.get("schema_version", 0) > SCHEMA_VERSION:
            raise UserError(f"{path}: written by a newer shiftbench; upgrade")
        # Keys that did not exist when it was written have their defaults.
        known = StudySpec.model_validate({**former["spec"], "experiment": "-"})
        former = {**former, "spec": known.model_dump(mode="json", exclude=FREE)}
        changes = list(_changes(former, _identity(self.study)))
        self.is_changed = bool(changes)
        if changes and not accept:
            how = "--accept continues it as it is now, or give it another name"
            raise UserError(f"the study has changed since it began: {'; '.join(changes)}; {how}")

    def write(self) -> None:
        """Write the study as it is now. After this it is begun."""
        if self.is_begun and not self.is_changed:
            return
        path = self.folder / "study.json"
        try:
            write_atomically(path, json.dumps(_identity(self.study), indent=1) + "\n")
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from None

    def add_point(self, params: dict[str, Any] | None, values: Point | str) -> None:
        """Append a proposed point, before any of its runs starts."""
        append_line(self.folder / "points.jsonl", json.dumps({"params": params, "values": values}))

    def end_search(self) -> None:
        """Note that the search has found all points of the space."""
        self.add_point(None, self._digest())

    def proposed_points(self) -> list[tuple[dict[str, Any], Point]]:
        """Return parameters and values of every proposed point, oldest first."""
        return [(line["params"], line["values"]) for line in self._points() if line["params"] is not None]

    @property
    def is_search_over(self) -> bool:
        return {"params": None, "values": self._digest()} in self._points()

    def _digest(self) -> str:
        """A hash of the study as it is now: another space may have more points."""
        return sha256(json.dumps(_identity(self.study), sort_keys=True).encode()).hexdigest()[:12]

    def _points(self) -> list[dict[str, Any]]:
        return read_lines(self.folder / "points.jsonl", ("params", "values"))[0]

    def add_judged(self, run_id: str, epoch: int) -> None:
        """Note that the scheduler has judged an epoch of a run."""
        append_line(self.folder / "judged.jsonl", json.dumps({"run_id": run_id, "epoch": epoch}))

    def judged_epochs(self) -> set[tuple[str, int]]:
        """Return the runs (run_id) and epochs that the scheduler of any driver has judged."""
        lines = read_lines(self.folder / "judged.jsonl", ("run_id", "epoch"))[0]
        return {(line["run_id"], line["epoch"]) for line in lines}


def stop_file(output_dir: Path, study: str) -> Path:
    """Return the file that ends all trials of a study once it exists."""
    return output_dir / "studies" / study / "halt.json"


def _identity(study: Study) -> dict[str, Any]:
    spec = study.spec.model_dump(mode="json", exclude=FREE)
    return {"schema_version": SCHEMA_VERSION, "spec": spec, "base": json.loads(json.dumps(study.base))}


def _changes(former: Any, now: Any, key: str = "") -> Iterator[str]:
    """`space.x.values: [2] → [2, 4]` for each leaf that differs."""
    if isinstance(former, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*former, *now]):
            yield from _changes(former.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif former != now:
        shown = ["none" if one is None else json.dumps(one, ensure_ascii=False) for one in (former, now)]
        yield f"{key.removeprefix('spec.')}: {shown[0]} → {shown[1]}"


def tune_folder(study: Study, output_dir: Path) -> Path:
    """Return the folder for Tune's own files. Raises UserError if it exists and is not a study's."""
    above = expand_path(study.spec.trials.ray_results or "~/ray_results", "trials.ray_results").absolute()
    study_folder = str((output_dir / "studies" / study.name).resolve())
    folder = above / f"{study.name}-{sha256(study_folder.encode()).hexdigest()[:6]}"
    if folder.exists() and not (folder / MARK).exists():
        raise UserError(f"{folder}: was not made by a study; move it away")
    return folder


def recreate(folder: Path, study_folder: Path) -> None:
    """Empty Tune's folder, for which Tune writes its files anew from the records. Raises UserError."""
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        (folder / MARK).write_text(f"{study_folder}\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}; see trials.ray_results") from None


def mark_complete(folder: Path) -> None:
    """Note in Tune's folder that every trial has ended and has its results there."""
    append_line(folder / MARK, COMPLETE)


def is_complete(folder: Path) -> bool:
    """Whether every trial has its results in Tune's folder."""
    return (folder / MARK).exists() and COMPLETE in (folder / MARK).read_text(encoding="utf-8").splitlines()
