"""Measures what `submit` and `status` of many runs cost beyond Slurm itself.

The jobs are submitted on hold, so nothing trains. The time for writing as many files of the same sizes is
measured too: it can be most of the cost.
"""

import getpass
import math
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.processes import Timed, environment, time_files, timed
from benchmarks.progress import progress_of
from jobs.cluster.clusters import SlurmCluster, load_cluster
from jobs.cluster.ledger import Ledger
from jobs.cluster.slurm_commands import SlurmError, ask, config, max_array_size
from suite.errors import UserError

EXPERIMENT: dict[str, Any] = {
    "name": "bench-submit",
    "model": {"arch": "small_resnet11"},
    "data": {"name": "fashion-mnist-7k", "image_size": 28, "train_images": 64, "val_images": 64},
    "batch": {"global_batch_size": 32},
}
MAX_SEEDS = 1000


@dataclass(frozen=True)
class SubmitBench:
    """Per round: submitting, `status` while all are queued, and `status` after all were cancelled."""

    cells: int
    max_array_size: int
    slurm_version: str
    submit: list[Timed] = field(default_factory=list)
    # Seconds for writing the same files without shiftbench.
    files_s: list[float] = field(default_factory=list)
    status: list[Timed] = field(default_factory=list)
    # Here `status` writes into every record that its job was cancelled.
    settle: list[Timed] = field(default_factory=list)

    @property
    def needed_sbatch_calls(self) -> int:
        return math.ceil(self.cells / self.max_array_size)


def bench_submit(cluster: str, cells: int, rounds: int, below: Path | None = None) -> SubmitBench:
    """Submit `cells` runs `rounds` times, each time from nothing, and cancel them.

    `below`: the parent of the temporary runs; None: the system's temporary folder. Raises UserError for a
    cluster without Slurm, or one that does not accept so many jobs.
    """
    where = load_cluster(cluster)
    if not isinstance(where, SlurmCluster):
        raise UserError(f"{cluster}: this benchmark submits to Slurm, and this cluster is local")
    experiment_of(cells)
    site = config()
    result = SubmitBench(cells, max_array_size(site), site.get("SLURM_VERSION", "unknown"))
    with tempfile.TemporaryDirectory(prefix="shiftbench-submit-", dir=below) as made:
        bench = _Bench(Path(made), where)
        bench.round(2, SubmitBench(2, result.max_array_size, result.slurm_version))  # fills Python's caches
        progress = progress_of(f"submitting {cells} runs")
        progress(0, rounds)
        for number in range(rounds):
            bench.round(cells, result)
            progress(number + 1, rounds)
    return result


def experiment_of(cells: int) -> dict[str, Any]:
    """Return an experiment of `cells` runs: seeds and, above a thousand, learning rates too.

    Raises UserError for a number that is not a full product of the two.
    """
    rates = math.ceil(cells / MAX_SEEDS)
    if cells % rates:
        raise UserError(f"--cells {cells}: above {MAX_SEEDS} a multiple of {rates} is expected")
    # The file cannot simply list more seeds: OmegaConf refuses one of 10,000 values.
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
        self.env = environment(folder, self.log)

    def round(self, cells: int, result: SubmitBench) -> None:
        """Measure once, in a folder of its own.

        Removes nothing between rounds: ext4 allocates slowly where many files have just been removed.
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
            expect(looked, f"{cells} runs: {cells} queued")
            cancel(runs)
            settled = self.timed("status", *target)
            expect(settled, f"{cells} runs: {cells} cancelled")
        finally:
            with suppress(SlurmError):  # an earlier error is the cause
                cancel(runs)
        result.submit.append(submitted)
        result.files_s.append(files_s)
        result.status.append(looked)
        result.settle.append(settled)

    def timed(self, *arguments: str) -> Timed:
        return timed(arguments, self.env, self.log)


def expect(status: Timed, said: str) -> None:
    """Raise UserError unless `shiftbench status` begins with `said`: only then is the time meaningful."""
    first = status.output.partition("\n")[0].strip()
    if first != said:
        raise UserError(f"nothing was measured: shiftbench status printed {first!r}, expected {said!r}")


def cancel(runs: Path) -> None:
    """Cancel the held jobs; jobs that are gone already are no error."""
    for one in Ledger(runs).read():
        ask("scancel", f"--user={getpass.getuser()}", f"--name={one.name}")
