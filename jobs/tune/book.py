"""A study's own folder: what it was when it began, and the points that were proposed since.

<output_dir>/studies/<name>/
  study.json      its spec and base as they were when it began; a resumed study must be the same
  points.jsonl    what Optuna proposed, in order
  lock            held by the driver
  answers.json, results.parquet   written when the driver ends

The runs themselves lie beside the others in the output folder.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.tune.spec import StudySpec
from jobs.tune.study import Study
from suite.errors import UserError
from suite.record.files import append_line, read_json, read_lines, write_atomically

SCHEMA_VERSION = 1
# These say where and how long, and decide no result.
FREE = {"trials", "budget", "experiment", "overrides"}


class Book:
    """The folder of one study."""

    def __init__(self, study: Study, output_dir: Path) -> None:
        self.study = study
        self.folder = output_dir / "studies" / study.name
        self.is_begun = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """One driver at a time. Raises UserError when there is one, or nothing can be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("a")
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written: {error.strerror}") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{self.folder}: another `shiftbench tune` runs this study now") from None
            except OSError as error:
                raise UserError(f"{self.folder}: this file system has no locks: {error.strerror}") from None
            yield

    def open(self, accept: bool) -> None:
        """Note the study, or compare it with what it was. Raises UserError with what differs."""
        path = self.folder / "study.json"
        former = read_json(path)
        self.is_begun = isinstance(former, dict)
        content = {"schema_version": SCHEMA_VERSION, **_identity(self.study)}
        if isinstance(former, dict):
            if former.get("schema_version", 0) > SCHEMA_VERSION:
                raise UserError(f"{path}: written by a newer shiftbench; upgrade")
            changes = list(_changes(_upgraded(former), content))
            if changes and not accept:
                raise UserError(
                    f"the study has changed since it began: {'; '.join(changes)}; --accept goes on with it "
                    "as it is now, or give it another name"
                )
            if not changes:
                return
        try:
            write_atomically(path, json.dumps(content, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from None

    def note_point(self, params: dict[str, Any]) -> None:
        """Append what was proposed, before anything of it is run."""
        append_line(self.folder / "points.jsonl", json.dumps({"params": params}))

    def noted_points(self) -> list[dict[str, Any]]:
        """The parameters of every point that was proposed, oldest first."""
        return [line["params"] for line in read_lines(self.folder / "points.jsonl", ("params",))[0]]


def _identity(study: Study) -> dict[str, Any]:
    spec: dict[str, Any] = study.spec.model_dump(mode="json", exclude=FREE)
    return {"spec": spec, "base": json.loads(json.dumps(study.base))}


def _upgraded(former: dict[str, Any]) -> dict[str, Any]:
    """What was written before a key existed has that key's default."""
    spec = {**former["spec"], "experiment": "-"}
    known = StudySpec.model_validate(spec).model_dump(mode="json", exclude=FREE)
    return {**former, "spec": known}


def _changes(former: Any, now: Any, key: str = "") -> Iterator[str]:
    """`space.x.values: [2] → [2, 4]` for each leaf that differs."""
    if isinstance(former, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*former, *now]):
            yield from _changes(former.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif former != now:
        yield f"{key.removeprefix('spec.')}: {_shown(former)} → {_shown(now)}"


def _shown(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
