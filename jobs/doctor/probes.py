"""What is looked at on a node with the standard library alone: clock, files, memory.

Each probe gives a plain dict for JSON. It says what is so; whether that is well is judged where all
nodes' answers are together.
"""

import fcntl
import os
import shutil
import time
from pathlib import Path
from typing import Any

FILE_PATIENCE_S = 5.0  # for a network file system to show a new file
SHM = Path("/dev/shm")

Answer = dict[str, Any]


def clock() -> Answer:
    """The time here, for whoever reads this at once to compare."""
    return {"time": time.time()}


def shared(folder: Path, token: str, node: str) -> Answer:
    """The output folder, as the login machine prepared it: see `jobs.doctor.meeting`."""
    answer: Answer = {"read": _read_token(folder / "from-login", token)}
    if answer["read"]:
        return answer
    try:
        answer["mtime"], answer["written"] = _replace(folder / node, f"{token} {node}"), True
    except OSError as error:
        answer["write"] = error.strerror or str(error)
        return answer
    try:
        with (folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        answer["lock"] = "not noticed"
    except BlockingIOError:
        answer["lock"] = "noticed"
    except OSError as error:
        answer["lock"] = error.strerror or str(error)
    return answer


def _read_token(path: Path, token: str) -> str:
    """Why the file is not what the login machine wrote; empty when it is."""
    deadline = time.monotonic() + FILE_PATIENCE_S
    while True:
        try:
            content = path.read_text()
            if content == token:
                return ""
            fault = "the file has another content here"
        except OSError as error:
            fault = error.strerror or str(error)
        if time.monotonic() > deadline:
            return fault
        time.sleep(0.2)


def _replace(path: Path, text: str) -> float:
    """Write over an older file by renaming, as records do; seconds that the file's clock is ahead of ours."""
    path.write_text("old")
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(text)
    ahead_s = draft.stat().st_mtime - time.time()
    draft.replace(path)
    if path.read_text() != text:
        raise OSError(0, "after a rename the old content is still there")
    return ahead_s


def shm() -> Answer:
    """Shared memory, by which loaders and NCCL pass data between processes."""
    try:
        usage = shutil.disk_usage(SHM)
    except OSError as error:
        return {"error": error.strerror or str(error)}
    return {"free_mib": usage.free // 2**20, "total_mib": usage.total // 2**20}


def data(paths: list[str]) -> Answer:
    """Each data folder: why it cannot be trained on from here, or null."""
    return {path: _data_fault(Path(path).expanduser()) for path in paths}


def _data_fault(folder: Path) -> str | None:
    for split in ("train", "val"):
        try:
            classes = [entry for entry in os.scandir(folder / split) if entry.is_dir()]
            if not classes:
                return f"{split}/ has no class folders"
            first = next(os.scandir(classes[0]), None)
            if first is None:
                return f"{split}/{classes[0].name}/ is empty"
            with Path(first).open("rb") as file:
                file.read(1)
        except OSError as error:
            where = Path(str(error.filename)).relative_to(folder) if error.filename else split
            return f"{where}: {error.strerror}" if folder.is_dir() else f"{error.strerror}"
    return None
