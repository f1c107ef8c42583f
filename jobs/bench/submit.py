"""What submitting many runs, and looking at them, costs beyond Slurm itself.

Whole processes are measured, as a user starts them. Commands of Slurm are found by way of a folder of shims,
which note when each was called and for how long, so that Slurm's own time can be taken apart. The jobs are
submitted held: nothing trains. Beside it stands how long the disk takes for as many files of the same sizes,
which can be most of it.
"""

import getpass
import math
import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from jobs.clusters import SlurmCluster, load_cluster
from jobs.slurm.commands import SlurmError, ask, config, max_array_size
from jobs.submissions import Ledger
from suite.errors import UserError
from suite.provenance import ROOT

# Those that submit and status may call.
SLURM_COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "srun", "scancel", "sinfo")
EXPERIMENT: dict[str, Any] = {
    "name": "bench-submit",
    "model": {"arch": "small_resnet11"},
    "data": {"name": "fashion-mnist-7k", "image_size": 28, "train_images": 64, "val_images": 64},
    "batch": {"global_batch_size": 32},
}
MAX_SEEDS = 1000
# bash tells the time without starting a process.
SHIM = """\
#!/usr/bin/env bash
start=$EPOCHREALTIME
{command} "$@"
code=$?
echo "{name} $start $EPOCHREALTIME" >> {log}
exit $code
"""


@dataclass(frozen=True)
class Call:
    """One call of a command of Slurm."""

    command: str
    duration_s: float


@dataclass(frozen=True)
class Timed:
    """A process, and the commands of Slurm that it called."""

    wall_s: float
    # Of the process and of what it called: the steadier number where other work runs beside it.
    cpu_s: float
    calls: tuple[Call, ...]
    output: str = ""

    @property
    def slurm_s(self) -> float:
        return sum(call.duration_s for call in self.calls)

    @property
    def own_s(self) -> float:
        return self.wall_s - self.slurm_s

    def count(self, command: str) -> int:
        return sum(call.command == command for call in self.calls)


@dataclass(frozen=True)
class Spread:
    """Median and range over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class SubmitBench:
    """What each round measured: submitting, looking at the queue, and looking once all was cancelled."""

    cells: int
    max_array_size: int
    slurm_version: str
    submit: list[Timed] = field(default_factory=list)
    # The bare files that submitting made, in seconds.
    files_s: list[float] = field(default_factory=list)
    status: list[Timed] = field(default_factory=list)
    # Writes into every record that its job was cancelled.
    settle: list[Timed] = field(default_factory=list)

    @property
    def needed_sbatch_calls(self) -> int:
        return math.ceil(self.cells / self.max_array_size)


def bench_submit(cluster: str, cells: int, rounds: int, below: Path | None = None) -> SubmitBench:
    """Submit `cells` runs `rounds` times, each time from nothing, and cancel them.

    `below`: where the runs' folders go for a while; None: the system's temporary folder. Raises UserError for
    a cluster that is not Slurm's, or one that does not take so many jobs.
    """
    where = load_cluster(cluster)
    if not isinstance(where, SlurmCluster):
        raise UserError(f"{cluster}: submitting to Slurm is measured; this cluster is local")
    experiment_of(cells)
    site = config()
    result = SubmitBench(cells, max_array_size(site), site.get("SLURM_VERSION", "unknown"))
    with tempfile.TemporaryDirectory(prefix="shiftbench-submit-", dir=below) as made:
        bench = _Bench(Path(made), where)
        bench.round(2, SubmitBench(2, result.max_array_size, result.slurm_version))  # fills Python's caches
        for _ in range(rounds):
            bench.round(cells, result)
    return result


def experiment_of(cells: int) -> dict[str, Any]:
    """An experiment of so many cells: seeds, and from a thousand on learning rates too, as a sweep has them.

    Raises UserError for a number that makes no full product.
    """
    rates = math.ceil(cells / MAX_SEEDS)
    if cells % rates:
        raise UserError(f"--cells {cells}: above {MAX_SEEDS} a multiple of {MAX_SEEDS} is expected")
    recipe = {"epochs": 1, "lr": [0.001 * (1 + rate) for rate in range(rates)]}
    return EXPERIMENT | {"recipe": recipe, "seeds": list(range(cells // rates))}


class _Bench:
    """The temporary folder: shims, the cluster's file, and each round's runs."""

    def __init__(self, folder: Path, cluster: SlurmCluster) -> None:
        self.folder = folder
        self.log = folder / "calls.log"
        self.rounds = 0
        self.cluster = folder / "cluster.yaml"
        more = cluster.additional_parameters | {"hold": True}
        held = cluster.model_copy(update={"additional_parameters": more, "jobs_folder": None})
        self.cluster.write_text(yaml.safe_dump(held.model_dump(mode="json")))
        write_shims(folder / "shims", self.log)
        self.env = os.environ | {
            "PATH": f"{folder / 'shims'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            # Compiled modules are kept, as they are for a user, whatever holds for this process.
            "PYTHONPYCACHEPREFIX": str(folder / "compiled"),
        }
        self.env.pop("PYTHONDONTWRITEBYTECODE", None)

    def round(self, cells: int, result: SubmitBench) -> None:
        """Measure once, in a folder of its own.

        Nothing is removed between rounds: ext4 looks long for room where many files have just been removed.
        """
        self.rounds += 1
        runs = self.folder / f"runs-{self.rounds}"
        experiment = self.folder / "experiment.yaml"
        experiment.write_text(yaml.safe_dump(experiment_of(cells)))
        target = ("--output-dir", str(runs))
        try:
            submitted = self.timed("submit", str(experiment), "--cluster", str(self.cluster), *target)
            files_s = time_files(runs, self.folder / f"files-{self.rounds}")
            looked = self.timed("status", *target)
            self.expect(looked, f"{cells} runs: {cells} queued")
            cancel(runs)
            settled = self.timed("status", *target)
            self.expect(settled, f"{cells} runs: {cells} cancelled")
        finally:
            with suppress(SlurmError):  # what raised before is the cause
                cancel(runs)
        result.submit.append(submitted)
        result.files_s.append(files_s)
        result.status.append(looked)
        result.settle.append(settled)

    def timed(self, *arguments: str) -> Timed:
        """Run `shiftbench` with these arguments to its end."""
        self.log.write_text("")
        start_s, start_cpu_s = time.perf_counter(), children_cpu_s()
        done = subprocess.run(
            [sys.executable, "-m", "jobs.cli", *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        wall_s = time.perf_counter() - start_s
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise UserError(f"shiftbench {arguments[0]} ended with {done.returncode}: {said}")
        return Timed(
            wall_s, children_cpu_s() - start_cpu_s, tuple(parse_calls(self.log.read_text())), done.stdout
        )

    def expect(self, timed: Timed, said: str) -> None:
        first = timed.output.partition("\n")[0]
        if first.strip() != said:
            raise UserError(f"nothing is measured: shiftbench status said {first!r} where {said!r} is right")


def children_cpu_s() -> float:
    """CPU time of this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cancel(runs: Path) -> None:
    """Take the held jobs back; jobs that are gone already are no error."""
    for one in Ledger(runs).read():
        ask("scancel", f"--user={getpass.getuser()}", f"--name={one.name}")


def time_files(like: Path, into: Path) -> float:
    """Seconds for making folders and files like those below `like`, with nothing thought in between."""
    found = [(into / path.relative_to(like), path) for path in (like, *sorted(like.rglob("*")))]
    content = [(copy, None if path.is_dir() else bytes(path.stat().st_size)) for copy, path in found]
    start_s = time.perf_counter()
    for copy, text in content:
        if text is None:
            copy.mkdir()
        else:
            copy.write_bytes(text)
    return time.perf_counter() - start_s


def write_shims(folder: Path, log: Path) -> None:
    """Commands of Slurm's names that call the real ones and append `name start end` to `log`."""
    folder.mkdir()
    for name in SLURM_COMMANDS:
        if (real := shutil.which(name)) is not None:
            shim = folder / name
            shim.write_text(SHIM.format(name=name, command=shlex.quote(real), log=shlex.quote(str(log))))
            shim.chmod(0o755)


def parse_calls(text: str) -> list[Call]:
    """What the shims wrote: seconds since 1970, with the point or the comma of the user's language."""
    calls = []
    for line in text.splitlines():
        name, start, end = line.replace(",", ".").split()
        calls.append(Call(name, float(end) - float(start)))
    return calls
