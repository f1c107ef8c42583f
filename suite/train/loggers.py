"""Copies of a run's measurements for the tools that show experiments. The record does not depend on them."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from suite.errors import UserError
from suite.experiment import Run
from suite.files import read_json, write_atomically
from suite.paths import RunPaths
from suite.specs.choice import resolve
from suite.specs.process import LOGGERS

log = logging.getLogger("shiftbench")


class RunLogger(Protocol):
    """A tool's copy of one run: `LOGGERS` names each class, called with (run, folder, former).

    `former`: the `id` of the copy that an earlier attempt of this run began; None if there is none.
    """

    id: str
    """Names the copy in the tool; another than `former` is a new one."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add values by name, such as `val/top1_percent`, after an optimizer step."""

    def close(self, error: BaseException | None) -> None:
        """Write what is left, and end. `error`: what ended the run, if anything did."""


class Loggers:
    """All loggers of a run. One that fails is left out from then on, with its error in the run's log.

    A run that resumes measures once more what lies behind its checkpoint. `loggers.json` in the run's folder
    notes what each tool has already, so that it gets every value once.
    """

    def __init__(self, run: Run, folder: Path) -> None:
        """Open those that `system.loggers` names. Raises UserError for one that is not installed."""
        self._file = RunPaths(folder).loggers
        self._open: dict[str, RunLogger] = {}
        self._notes = _read(self._file)
        for name in run.system.loggers:
            entry, note = LOGGERS[name], self._notes.get(name)
            try:
                self._open[name] = logger = resolve(entry.logger)(run, folder, note and note.id)
            except ModuleNotFoundError as error:
                raise UserError(f"system.loggers: {name}: {error}; {entry.install}") from None
            except Exception as error:
                self._leave_out(name, error)
            else:
                if note is None or note.id != logger.id:
                    self._notes[name] = _Note(logger.id, {})

    def log(self, values: Mapping[str, float], *, epoch: int, step: int) -> None:
        """Give what belongs together, of which the first name is enough to know it, to each logger."""
        for name, logger in list(self._open.items()):
            steps = self._notes[name].steps
            new = [part for part in (values, {"epoch": epoch}) if step > steps.get(next(iter(part)), -1)]
            if not new:
                continue
            try:
                logger.log({key: value for part in new for key, value in part.items()}, step)
            except Exception as error:
                self._leave_out(name, error)
            else:
                steps |= {next(iter(part)): step for part in new}
        notes = {name: asdict(note) for name, note in self._notes.items()}
        write_atomically(self._file, json.dumps(notes), durable=False)

    def close(self, error: BaseException | None) -> None:
        """End all loggers. `error`: what ended the run, if anything did."""
        for name, logger in list(self._open.items()):
            try:
                logger.close(error)
            except Exception as failure:
                self._leave_out(name, failure)

    def _leave_out(self, name: str, error: Exception) -> None:
        """A tool's server that is down must not end days of training: the record has everything."""
        self._open.pop(name, None)
        log.error("system.loggers: %s gets no more values: %s: %s", name, type(error).__name__, error)


@dataclass(frozen=True)
class _Note:
    """What a tool has: its own name of the run, and the last step of each measurement."""

    id: str
    steps: dict[str, int]


def _read(file: Path) -> dict[str, _Note]:
    found = read_json(file)
    try:
        return {name: _Note(**note) for name, note in (found or {}).items()}
    except (AttributeError, TypeError):
        raise UserError(f"{file}: not as shiftbench writes it; delete it, and loggers begin anew") from None
