"""Measures the lists of a data set's files: how long they take, and what they cost each rank in memory."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

CLASSES = 1000
# In a new process, as a rank's: it prints the seconds of a call, and by how many MiB its own memory grows.
MEASURE = """
import sys, time
from pathlib import Path
import psutil
from {module} import {function} as call
memory = psutil.Process().memory_full_info().uss
start_s = time.perf_counter()
index = call(Path({folder!r}), "train")
print(time.perf_counter() - start_s, (psutil.Process().memory_full_info().uss - memory) / 2**20, len(index))
"""


@dataclass(frozen=True)
class Loaded:
    """What a process spends on a list: seconds, and MiB that it shares with no other process."""

    duration_s: float
    memory_mib: float


@dataclass(frozen=True)
class IndexBench:
    """Of a folder of files and of a pack with as many images."""

    entries: int
    listed: Loaded
    """Listed, and written to the cache."""
    cached: Loaded
    packed: Loaded


def bench_index(entries: int, below: Path | None = None) -> IndexBench:
    """Measure with so many empty files in a thousand class folders, in a temporary folder `below`."""
    with tempfile.TemporaryDirectory(prefix="shiftbench-index-", dir=below) as made:
        work, folder = Path(made), Path(made) / "folder"
        names = [f"n{place:08d}/n{place:08d}_{number}.JPEG" for number, place in _numbers(entries)]
        for place in range(min(CLASSES, entries)):
            (folder / "train" / f"n{place:08d}").mkdir(parents=True)
        for name in names:
            os.close(os.open(folder / "train" / name, os.O_CREAT | os.O_WRONLY))
        time.sleep(3)  # lists of folders that have just changed are not kept
        listed, cached = (_measured("suite.data.index", "scan", folder, work / "home") for _ in range(2))
        shutil.rmtree(folder)
        _made_up_pack(names, work / "pack")
        packed = _measured("suite.data.packs", "pack_index", work / "pack", work / "home")
        return IndexBench(entries, listed, cached, packed)


def _numbers(entries: int) -> list[tuple[int, int]]:
    return [divmod(number, CLASSES) for number in range(entries)]


def _measured(module: str, function: str, folder: Path, home: Path) -> Loaded:
    code = MEASURE.format(module=module, function=function, folder=str(folder))
    env = os.environ | {"SHIFTBENCH_DATA_DIR": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    duration_s, memory_mib, _ = map(float, done.stdout.split())
    return Loaded(duration_s, memory_mib)


def _made_up_pack(names: list[str], folder: Path) -> None:
    """Write a pack's index, and a data file that holds nothing."""
    import hashlib

    from suite.data.packed import row_type
    from suite.data.packs import DataFile, PackedSplit, write_manifest

    folder.mkdir()
    ordered = sorted(names)
    rows_N = np.zeros(len(ordered), row_type(max(map(len, ordered)) + len("train/")))
    rows_N["name"] = [f"train/{name}".encode() for name in ordered]
    rows_N["label"] = [int(name[1:9]) for name in ordered]
    rows_N["offset"], rows_N["length"] = np.arange(len(ordered)), 1
    np.save(folder / "train.npy", rows_N)
    with (folder / "train-00000.data").open("wb") as file:
        file.truncate(len(ordered))
    content = (folder / "train.npy").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    files = (DataFile("train-00000.data", len(ordered)),)
    split = PackedSplit(len(ordered), "train.npy", len(content), digest, files)
    write_manifest(folder, tuple(sorted({name[:9] for name in ordered})), {"train": split})


def print_index(console: Console, index: IndexBench) -> None:
    """Print what was measured, with the target."""
    table = Table(f"{index.entries} images", "time (s)", "target", "memory of a rank (MiB)", box=None)
    for name, one, target in (
        ("listed, and the list kept", index.listed, ""),
        ("from the list that was kept", index.cached, "≤ 1"),
        ("from a pack's index", index.packed, "≤ 1"),
    ):
        table.add_row(name, f"{one.duration_s:.2f}", target, f"{one.memory_mib:.0f}")
    console.print(table)
