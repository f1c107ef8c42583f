"""Run folders to Records. What cannot be read is named and kept beside them, never dropped."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from suite.errors import UserError
from suite.paths import find_runs
from suite.record import STATES, Record


@dataclass(frozen=True)
class Skipped:
    """A folder with a run.json that no Record could be made of."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class Collection:
    """Everything found below the given folders."""

    records: list[Record]
    skipped: list[Skipped]


def collect(roots: Sequence[Path]) -> Collection:
    """Read every run folder at or below `roots`.

    Raises UserError when a root is no folder, when there is no run, or when not one run can be read.
    """
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; expected one that holds runs")
    records: list[Record] = []
    skipped: list[Skipped] = []
    for paths in find_runs(list(roots)):
        try:
            records.append(_read(paths.folder))
        except UserError as error:
            skipped.append(Skipped(paths.folder, str(error)))
    where = ", ".join(str(root) for root in roots)
    if not records and skipped:
        more = f" (and {len(skipped) - 1} more like it)" if len(skipped) > 1 else ""
        raise UserError(f"no readable run below {where}: {skipped[0].reason}{more}")
    if not records:
        raise UserError(f"no runs found below {where}; expected folders with a run.json")
    return Collection(records, skipped)


def _read(folder: Path) -> Record:
    try:
        record = Record.read(folder)
        state = record.state
        _ = record.run, record.costs
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{folder}: run.json is not a run of this version: {key}: {first['msg']}") from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
    except (TypeError, AttributeError, KeyError, ValueError):
        raise UserError(
            f"{folder}: run.json, status.json or layers.json is not as shiftbench writes it"
        ) from None
    if state not in STATES:
        raise UserError(f"{folder}: status.json has the unknown state {state!r}")
    return record
