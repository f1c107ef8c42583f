"""Measures the overhead of `shiftbench tune` over `shiftbench run`, and its memory over many trials.

Both sides are whole processes, as a user starts them; memory is that of the driver and of all Ray processes.
"""

import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.pairing import Ratio, summarize
from benchmarks.progress import progress_of
from suite.errors import UserError
from suite.record import RecordWriter
from suite.studies.study import load_study

# The size of the small-batch study for CPUs: about twenty seconds on one of two cores.
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
    """Wall times of both sides (s), and memory (MiB) by the number of trials that were only read."""

    trials: int
    overhead: Ratio
    read_trials: int
    read_s: float
    memory: list[tuple[int, float]] = field(default_factory=list)

    @property
    def overhead_s(self) -> float:
        """Overhead of one trial, seconds."""
        return (self.overhead.a_median - self.overhead.b_median) / self.trials

    @property
    def trial_s(self) -> float:
        """Duration of one of the concurrent runs without Tune, seconds."""
        return self.overhead.b_median * AT_A_TIME / self.trials

    def memory_mib(self, share: float) -> float:
        """Memory (MiB) when this share of the trials had been read."""
        reached = [mib for trials, mib in self.memory if trials >= share * self.read_trials]
        return reached[0] if reached else self.memory[-1][1]


def bench_tune(trials: int, rounds: int, read_trials: int) -> TuneBench:
    """Train `trials` runs with both commands, `rounds` times each, then read `read_trials` completed ones."""
    with tempfile.TemporaryDirectory(prefix="shiftbench-tune-") as made:
        folder = Path(made)
        study = _study(folder, trials)
        commands = {
            "tune": lambda runs: ["tune", str(study), "--output-dir", runs],
            "run": lambda runs: ["run", str(study), "--output-dir", runs, "--jobs", str(AT_A_TIME)],
        }

        def timed(name: str) -> float:
            runs = tempfile.mkdtemp(prefix=f"{name}-", dir=folder)
            start_s = time.perf_counter()
            _call(commands[name](runs), folder)
            return time.perf_counter() - start_s

        order, times = random.Random(0), {name: list[float]() for name in commands}
        progress = progress_of("tune / run", of=2)
        progress(0, rounds)
        for number in range(rounds):
            for name in order.sample(sorted(commands), len(commands)):
                times[name].append(timed(name))
            progress(number + 1, rounds)
        overhead = summarize(times["tune"], times["run"])
        memory, read_s = _read(folder, read_trials)
    return TuneBench(trials, overhead, read_trials, read_s, memory)


def _study(folder: Path, trials: int) -> Path:
    """Write a study over `trials` learning rates, which do not change how long a run takes."""
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
    """Return memory (MiB) by the number of trials that Tune has recorded, and the total time (s)."""
    path, runs = _study(folder, trials), folder / "read"
    for run in load_study(path).runs:
        with RecordWriter(run, runs / run.folder_name, durable=False) as record:
            record.measure("top1_percent", 50.0, epoch=run.num_epochs, step=1, split="val")
            record.status("completed")
    found: list[tuple[int, float]] = []
    progress = progress_of(f"{trials} completed trials are read", number=2, of=2)
    progress(0, 1)
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
    progress(1, 1)
    return found, time.perf_counter() - start_s


def _family(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    return []


def _resident_mib(process: psutil.Process) -> float:
    """Return a process's own memory (MiB), without shared pages such as those of Ray's object store."""
    with suppress(psutil.NoSuchProcess):
        memory = process.memory_info()
        return float(memory.rss - memory.shared) / 2**20
    return 0.0
