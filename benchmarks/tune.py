"""What `shiftbench tune` adds to the same runs trained bare, and whether its memory grows with the trials.

Both sides are whole processes, as a user starts them; memory is the driver's and that of all that Ray starts.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.pairing import Ratio, summarize
from suite.errors import UserError
from suite.record import RecordWriter
from suite.studies.study import load_study

# Of the size of the small-batch study for CPUs: some twenty seconds on one of two cores.
EXPERIMENT: dict[str, Any] = {
    "model": {"arch": "small_resnet20"},
    "data": {"name": "fashion-mnist-7k", "image_size": 28, "train_images": 1280, "val_images": 500},
    "batch": {"global_batch_size": 32},
    "recipe": {"epochs": 2, "channels_last": True},
    "measure": {"precise_bn_images": 0},
}
AT_A_TIME = 2
SAMPLE_EVERY_S = 0.5


@dataclass(frozen=True)
class TuneBench:
    """Wall times of both sides, in seconds; and for trials that are only read, memory as they went by."""

    trials: int
    overhead: Ratio
    read_trials: int
    read_s: float
    memory: list[tuple[int, float]] = field(default_factory=list)

    @property
    def overhead_s(self) -> float:
        """Of one trial."""
        return (self.overhead.a_median - self.overhead.b_median) / self.trials

    @property
    def trial_s(self) -> float:
        """How long one of those that are at a time takes, bare."""
        return self.overhead.b_median * AT_A_TIME / self.trials

    def memory_mib(self, share: float) -> float:
        """Once this share of the trials was read."""
        reached = [mib for trials, mib in self.memory if trials >= share * self.read_trials]
        return reached[0] if reached else self.memory[-1][1]


def bench_tune(trials: int, rounds: int, read_trials: int) -> TuneBench:
    """Train `trials` runs both ways, `rounds` times each, and then read `read_trials` complete ones."""
    with tempfile.TemporaryDirectory(prefix="shiftbench-tune-") as made:
        folder = Path(made)
        study = _study(folder, trials)
        ways = {
            "tune": lambda runs: ["tune", str(study), "--output-dir", runs],
            "run": lambda runs: ["run", str(study), "--output-dir", runs, "--jobs", str(AT_A_TIME)],
        }

        def timed(runner: str) -> float:
            runs = tempfile.mkdtemp(prefix=f"{runner}-", dir=folder)
            start_s = time.perf_counter()
            _call(ways[runner](runs), folder)
            return time.perf_counter() - start_s

        order, times = random.Random(0), {runner: list[float]() for runner in ways}
        for _ in range(rounds):
            for runner in order.sample(sorted(ways), len(ways)):
                times[runner].append(timed(runner))
        overhead = summarize(times["tune"], times["run"])
        memory, read_s = _read(folder, read_trials)
    return TuneBench(trials, overhead, read_trials, read_s, memory)


def _study(folder: Path, trials: int) -> Path:
    """A study of so many runs: learning rates, which change nothing about how long a run takes."""
    (folder / "base.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    rates = [round(0.01 + 1e-5 * number, 6) for number in range(trials)]
    path = folder / f"study-{trials}.yaml"
    content = {
        "experiment": "base.yaml",
        "space": {"recipe.lr": {"kind": "grid", "values": rates}},
        "seeds": [0],
        "trials": {"at_a_time": AT_A_TIME, "ray_results": str(folder / "ray_results")},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def _call(arguments: list[str], folder: Path) -> None:
    done = subprocess.run(_command(arguments), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise UserError(f"shiftbench {arguments[0]} ended with {done.returncode}: {done.stderr.strip()}")


def _command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "jobs.cli", *arguments]


def _read(folder: Path, trials: int) -> tuple[list[tuple[int, float]], float]:
    """Memory (MiB) by the number of trials that Tune has on record, and the whole time."""
    path, runs = _study(folder, trials), folder / "read"
    for run in load_study(path).runs:
        with RecordWriter(run, runs / run.folder_name, durable=False) as record:
            record.measure("top1_percent", 50.0, epoch=run.recipe.epochs, step=1, split="val")
            record.status("completed")
    found: list[tuple[int, float]] = []
    start_s = time.perf_counter()
    process = subprocess.Popen(
        _command(["tune", str(path), "--output-dir", str(runs)]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None:
        time.sleep(SAMPLE_EVERY_S)
        count = sum(1 for _ in (folder / "ray_results").glob(f"study-{trials}-*/*/result.json"))
        if count:
            found.append((count, sum(map(_resident_mib, _family(process.pid)))))
    if process.returncode != 0 or not found:
        raise UserError(f"shiftbench tune ended with {process.returncode} where {trials} trials are complete")
    return found, time.perf_counter() - start_s


def _family(pid: int) -> Iterator[int]:
    """A process and its descendants."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        parents.setdefault(parent, []).append(int(path.parent.name))
    waiting = [pid]
    while waiting:
        yield (one := waiting.pop())
        waiting += parents.get(one, [])


def _resident_mib(pid: int) -> float:
    """Of its own: pages that it shares with others, as Ray's object store, would count many times."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0.0
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE") / 2**20
