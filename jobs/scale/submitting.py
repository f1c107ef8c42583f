"""The jobs of a scaling study. Each waits for the one before: together they would slow each other."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jobs.cluster import sbatch
from jobs.cluster.backend import RunStatus
from jobs.cluster.overview import overview
from jobs.cluster.submit import plan, scripts, submit
from jobs.scale.cells import Cell
from suite.errors import UserError
from suite.paths import RunPaths
from suite.record import UNFINISHED, read_status

LOOK_EVERY_S = 2.0  # at a cell's own files
ASK_EVERY_S, ASK_AT_LEAST_EVERY_S = 2.0, 60.0  # Slurm: after each answer that is as before, half as often
# Slurm's reasons for a job that waits for a change of its request or of the site, and not for its turn.
NEVER_STARTS = ("PartitionNodeLimit", "PartitionTimeLimit", "BadConstraints", "InvalidAccount", "InvalidQOS")


@dataclass
class SubmittedCells:
    """What became of each cell: names of cells with their job, or with why there is none."""

    submitted: dict[str, str] = field(default_factory=dict)
    queued: dict[str, str] = field(default_factory=dict)
    completed: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def jobs(self) -> list[str]:
        """The ids of the jobs that have not ended."""
        return [*self.queued.values(), *self.submitted.values()]


def submit_missing(cells: Sequence[Cell]) -> SubmittedCells:
    """Submit the cells that are neither completed nor under way, failed ones too.

    A cell that the scheduler refuses is noted, and the next one is tried: it may ask for fewer nodes.
    """
    done = SubmittedCells()
    after: tuple[str, ...] = ()
    # A job of more nodes than a partition has may be taken all the same, and would hold up those behind it.
    refusals = {cell.nodes: _refusal(cell) for cell in cells[: len({cell.nodes for cell in cells})]}
    for cell in cells:
        if refusal := refusals[cell.nodes]:
            done.refused[cell.name] = refusal
            continue
        try:
            result = submit([cell.run], cell.cluster, cell.output_dir, cell.run.experiment, after=after)
        except UserError as error:
            done.refused[cell.name] = str(error)
            continue
        name = cell.run.folder_name
        job = ""
        if result.jobs:
            job = done.submitted[cell.name] = str(result.jobs[-1].job_id)
        elif name in result.queued:
            job = done.queued[cell.name] = result.queued[name]
        elif name in result.unreadable:
            done.refused[cell.name] = result.unreadable[name]
        elif name in result.ending:
            done.refused[cell.name] = (
                f"its job {result.ending[name]} has not ended yet; run the command again"
            )
        else:
            done.completed.append(cell.name)
        if (number := job.partition(" ")[0].partition("_")[0]).isdigit():
            after = (number,)
    return done


def _refusal(cell: Cell) -> str:
    """Return why Slurm would not start a cell's job; empty if it would."""
    code, message = sbatch.try_out(cell.cluster)
    return message if code else ""


def planned(cells: Sequence[Cell]) -> tuple[dict[str, str], dict[int, str]]:
    """Return what `submit_missing` would do with each cell, and a script for each number of nodes."""
    what: dict[str, str] = {}
    texts: dict[int, str] = {}
    for cell in cells:
        found = plan([cell.run], cell.cluster, cell.output_dir)
        name = cell.run.folder_name
        if found.left:
            what[cell.name] = "submit"
            if cell.nodes not in texts:
                ((_, texts[cell.nodes]),) = scripts(found, cell.cluster, cell.output_dir, cell.run.experiment)
        else:
            others = found.queued | found.ending | found.unreadable
            what[cell.name] = others.get(name, "complete")
    return what, texts


def follow(cells: Sequence[Cell], on_look: Callable[[Cell, RunStatus], None]) -> dict[str, str]:
    """Wait until the cells have ended, in their order. `on_look` sees each answer of Slurm.

    Returns the names of the cells that will not start, with why: they are not waited for.
    """
    stuck: dict[str, str] = {}
    for cell in cells:
        before, wait_s = "", ASK_EVERY_S
        while True:
            (seen,) = overview(cell.output_dir, [cell.folder]).runs
            on_look(cell, seen)
            if not seen.is_unfinished:
                break
            # One behind it waits for its end.
            reasons = (*NEVER_STARTS, "Dependency") if stuck else NEVER_STARTS
            if seen.state == "queued" and any(reason in seen.reason for reason in reasons):
                stuck[cell.name] = f"{seen.reason}: it will not start; end it by scancel {seen.job}"
                break
            wait_s = ASK_EVERY_S if seen.state != before else min(2 * wait_s, ASK_AT_LEAST_EVERY_S)
            before = seen.state
            _wait_for_its_end(cell, wait_s)
    return stuck


def _wait_for_its_end(cell: Cell, longest_s: float) -> None:
    """Return when the cell's record says that it has ended, or after `longest_s`."""
    deadline = time.monotonic() + longest_s
    while time.monotonic() < deadline:
        time.sleep(LOOK_EVERY_S)
        if read_status(RunPaths(cell.folder)).state not in UNFINISHED:
            return
