"""The launches under way in an output folder: what each has planned and begun, for `shiftbench status`.

<output_dir>/.shiftbench/launches/<pid>@<start>.json holds the machine, the folders of all planned runs, and
when each run's process was started. A note counts while its process lives, and is removed at its end.
"""

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from suite.files import read_json, write_atomically
from suite.record.shapes import FILE_NAME, NUMBER, TEXT, Shape, fault_in

FOLDER = Path(".shiftbench") / "launches"
_SHAPES = {
    "host": TEXT.required(),
    "folders": Shape(
        "a list of files' names", lambda v: isinstance(v, list) and all(map(FILE_NAME.fits, v))
    ).required(),
    "started": Shape(
        "times by name", lambda v: isinstance(v, dict) and all(map(NUMBER.fits, v.values()))
    ).required(),
}


@dataclass
class Launch:
    """This process's note of the runs that it trains. A context manager; others can write nothing here."""

    output_dir: Path
    folders: Sequence[str]
    _started: dict[str, float] = field(default_factory=dict)

    @property
    def _file(self) -> Path:
        return self.output_dir / FOLDER / f"{os.getpid()}@{start_ticks(os.getpid())}.json"

    def __enter__(self) -> Self:
        with suppress(OSError):
            self._file.parent.parent.mkdir(mode=0o755, exist_ok=True)  # jobs may keep there what they execute
            self._file.parent.mkdir(exist_ok=True)
            for path in self._file.parent.glob("*.json"):
                if (content := _read(path)) and _is_here(content) and not _is_alive(path):
                    path.unlink(missing_ok=True)
        self._write()
        return self

    def started(self, folder: Path) -> None:
        """Note that the process of a run was started."""
        self._started[folder.name] = time.time()
        self._write()

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # the folders may hold the notes of others, or a ledger
            self._file.unlink(missing_ok=True)
            self._file.parent.rmdir()
            self._file.parent.parent.rmdir()

    def _write(self) -> None:
        content = {"host": socket.gethostname(), "folders": list(self.folders), "started": self._started}
        with suppress(OSError):  # a folder of others: `status` then shows what the records say
            write_atomically(self._file, json.dumps(content) + "\n", durable=False)


def launches(output_dir: Path) -> tuple[list[str], dict[str, float]]:
    """Return the folders that live launches of this machine have planned, and when each run was started."""
    planned: dict[str, None] = {}
    started: dict[str, float] = {}
    for path in sorted((output_dir / FOLDER).glob("*.json")):
        content = _read(path)
        if content and _is_here(content) and _is_alive(path):
            planned |= dict.fromkeys(content["folders"])
            started |= content["started"]
    return list(planned), started


def _read(note: Path) -> dict[str, Any]:
    """Return a note's content; empty where it cannot be used."""
    try:
        content = read_json(note)
    except OSError:
        return {}
    return {} if fault_in(content, _SHAPES) else dict(content)


def _is_here(content: Mapping[str, Any]) -> bool:
    return bool(content["host"] == socket.gethostname())


def _is_alive(note: Path) -> bool:
    pid, _, start = note.stem.partition("@")
    return pid.isdigit() and start_ticks(int(pid)) == start


def start_ticks(pid: int) -> str | None:
    """Return when a process began, in clock ticks since boot, which make its id unique; None after its end.

    psutil gives the time of a clock that may be set while the process runs.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
