"""The cells of a scaling study: one run, made as long as its steps take to time, on each number of nodes.

Nodes are no part of a run, so that cells cannot share an output folder: each has its own, with its ledger.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jobs.cluster.clusters import SlurmCluster
from jobs.cluster.ledger import where_jobs_lie
from suite.errors import UserError
from suite.experiment import Experiment, Run, check_batches
from suite.paths import RunPaths
from suite.record import read_status
from suite.specs.recipe import DEFAULT_EPOCHS

MAX_LISTED = 6  # cells of an experiment in a refusal
MAX_NODES = 100_000


@dataclass(frozen=True)
class Cell:
    """A run on so many nodes, once. `output_dir` holds it and its ledger."""

    nodes: int
    repeat: int
    run: Run
    cluster: SlurmCluster
    output_dir: Path

    @property
    def folder(self) -> Path:
        return self.output_dir / self.run.folder_name

    @property
    def name(self) -> str:
        return f"{self.nodes} node{'s'[: self.nodes != 1]}, repeat {self.repeat}"


@dataclass(frozen=True)
class ScalePlan:
    """What to time. `steps` are timed after `warmup_steps`."""

    nodes: Sequence[int]
    mode: Literal["strong", "weak"]
    repeats: int
    steps: int
    warmup_steps: int


def parse_nodes(text: str) -> list[int]:
    """Read `1,2,4,8`. Raises UserError."""
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,6}", word) and 1 <= int(word) <= MAX_NODES for word in words):
        raise UserError(f"--nodes: expected numbers of nodes, such as 1,2,4,8, got {text!r}")
    nodes = sorted({int(word) for word in words})
    if len(nodes) < 2:
        raise UserError(f"--nodes: {text} is one number of nodes; give two or more, such as 1,2,4,8")
    return nodes


def only_run(experiment: Experiment, config: Path) -> Run:
    """Return the one cell of an experiment, with its first seed. Raises UserError for several cells."""
    cells: dict[str, Run] = {}
    for run in experiment.runs:
        alike = run.model_dump(mode="json", exclude={"seed"})
        cells.setdefault(json.dumps(alike, sort_keys=True), run)
    if len(cells) > 1:
        labels = [label_of(run) for run in cells.values()]
        listed = ", ".join(dict.fromkeys(labels[:MAX_LISTED])) + (", …" if len(labels) > MAX_LISTED else "")
        raise UserError(
            f"{config}: has {len(cells)} cells ({listed}), and scale times one: choose it by overrides, such "
            "as model.norm=bn batch.norm_batch_size=32"
        )
    return next(iter(cells.values()))


def label_of(run: Run) -> str:
    """Return a run's name without its seed, which differs from repeat to repeat."""
    return run.label.rpartition(" seed ")[0]


def plan_cells(run: Run, cluster: SlurmCluster, output_dir: Path, plan: ScalePlan) -> list[Cell]:
    """Return the cells in the order in which they run: all numbers of nodes, then the next repeat.

    Repeats differ in what can be chosen, so that their spread shows what one timing is worth. Each has its
    own seed, and so other images, which no cache holds from the repeat before. Every other one begins with
    the most nodes, so that what changes meanwhile does not favour one number.

    Raises UserError for a batch that does not fit a number of ranks, and for cells that were timed on another
    number of ranks.
    """
    home = study_folder(run, cluster, output_dir, plan)
    jobs = where_jobs_lie(output_dir, cluster.jobs_folder)  # shared, so that the sources are copied once
    cells = []
    for repeat in range(1, plan.repeats + 1):
        seeded = run.model_copy(update={"seed": (run.seed + repeat - 1) % 2**32})
        for nodes in plan.nodes if repeat % 2 else reversed(plan.nodes):
            there = cluster.model_copy(update={"nodes": nodes, "jobs_folder": str(jobs)})
            own = _on_nodes(seeded, nodes, there.ranks, plan)
            cells.append(Cell(nodes, repeat, own, there, home / f"nodes-{nodes}" / f"repeat-{repeat}"))
    for cell in cells:
        _check_ranks(cell)
    return cells


def study_folder(run: Run, cluster: SlurmCluster, output_dir: Path, plan: ScalePlan) -> Path:
    """Return where a study's cells and its results lie.

    Its name holds whatever decides a speed but the code: the whole run, its process's settings too, and the
    cluster's file.
    """
    content = timed(run, plan).model_dump_json() + cluster.model_dump_json(exclude={"nodes", "jobs_folder"})
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    label, name = (re.sub(r"[^a-z0-9._-]+", "-", text.lower()) for text in (label_of(run), cluster.name))
    return output_dir / f"{label}-{digest}" / f"{name}-{plan.mode}"


def timed(run: Run, plan: ScalePlan, global_batch_size: int | None = None) -> Run:
    """Return the run with as many steps as are timed, and one evaluation at the end.

    Its learning rate rises to the end, so that no batch size diverges; a step takes as long at any rate.
    """
    if run.recipe.federated is not None:
        raise UserError("recipe.federated: the clients train in turn on one rank, which does not scale")
    total = plan.steps + plan.warmup_steps
    content = run.model_dump()
    content["recipe"] |= {
        "epochs": DEFAULT_EPOCHS,
        "iterations": total,
        "warmup_epochs": 0.0,
        "warmup_iterations": total - 1,
        "schedule": "constant",
        "swa": None,
    }
    content["measure"] |= {
        "every_iterations": None,
        "probe_every_epochs": None,
        "precise_bn_images": 0,
        "warmup_steps": plan.warmup_steps,
    }
    if global_batch_size is not None:
        content["batch"]["global_batch_size"] = global_batch_size
    return Run.model_validate(content)


def _on_nodes(run: Run, nodes: int, ranks: int, plan: ScalePlan) -> Run:
    """Return the timed run with its batch for so many nodes. Raises UserError."""
    size = run.batch.global_batch_size
    if plan.mode == "weak":
        # Whole, because the fewest nodes come first, whose ranks divide the batch.
        size = size * nodes // plan.nodes[0]
    images = run.data.train_images
    if images is not None and images < size:
        raise UserError(
            f"data.train_images: {images} is less than the {size} images of a step on {nodes} nodes; raise it"
        )
    own = timed(run, plan, size)
    try:
        check_batches([own], ranks)
    except UserError as error:
        raise UserError(f"on {nodes} nodes: {error}{_REMEDIES[plan.mode]}") from None
    return own


_REMEDIES: dict[str, str] = {
    "strong": "; strong scaling keeps both batches: lower batch.batch_size_per_gpu, raise "
    "batch.global_batch_size, or take --weak",
    "weak": "; the file's global batch is that of the fewest nodes: make it a multiple of batch_size_per_gpu "
    "times their ranks",
}


def _check_ranks(cell: Cell) -> None:
    status: dict[str, Any] = read_status(RunPaths(cell.folder)).content
    if status.get("state") == "completed" and status.get("world_size") not in (None, cell.cluster.ranks):
        raise UserError(
            f"{cell.folder}: was timed with {status['world_size']} ranks, and cluster {cell.cluster.name} "
            f"now gives {cell.cluster.ranks}: take another --output-dir"
        )
