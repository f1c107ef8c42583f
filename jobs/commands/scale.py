"""`shiftbench scale`: times one run on several numbers of nodes, and says how it scales."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from jobs import exit_codes
from jobs.commands.run import OverridesArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobs.cluster.backend import RunStatus
    from jobs.scale.cells import Cell, ScalePlan
    from jobs.scale.submitting import SubmittedCells


def scale(
    config: Annotated[
        Path, typer.Argument(help="Experiment YAML of one cell; overrides choose among several.")
    ],
    cluster: Annotated[
        str, typer.Option("--cluster", "-c", help="A Slurm cluster: a name in configs/clusters, or a YAML.")
    ],
    overrides: OverridesArgument = None,
    nodes: Annotated[str, typer.Option(help="Numbers of nodes, with commas between.")] = "1,2,4,8",
    strong: Annotated[
        bool,
        typer.Option(
            "--strong/--weak",
            help="Keep the global batch, or let it grow with the nodes from the file's on the fewest.",
        ),
    ] = True,
    repeats: Annotated[int, typer.Option(min=1, help="Jobs for each number of nodes; 3 give intervals.")] = 3,
    steps: Annotated[int, typer.Option(min=2, help="Steps that are timed in each job.")] = 200,
    warmup_steps: Annotated[int, typer.Option(min=0, help="Steps before them, which are left out.")] = 20,
    output_dir: Annotated[Path, typer.Option(help="Folder for the jobs' runs and the results.")] = Path(
        "scaling"
    ),
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until all jobs have ended.")] = True,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Submit nothing; show what is there.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be submitted; write nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON, and progress on stderr.")
    ] = False,
) -> None:
    """Time a run on several numbers of nodes: speed, efficiency, what a step consists of, slow nodes.

    The jobs run one after the other. The same command again submits only cells that are missing or have
    failed, so an interrupt loses nothing. Results are in scaling.md, scaling.csv and scaling.svg.
    """
    from jobs.cluster.clusters import load_cluster
    from jobs.scale.cells import ScalePlan, label_of, only_run, parse_nodes, plan_cells, study_folder
    from jobs.scale.submitting import submit_missing
    from suite.config import load_experiment
    from suite.config_file import naming
    from suite.errors import UserError

    console = Console(soft_wrap=True, highlight=False, stderr=as_json)
    plan = ScalePlan(parse_nodes(nodes), "strong" if strong else "weak", repeats, steps, warmup_steps)
    run = only_run(load_experiment(config, overrides or []), config)
    where = load_cluster(cluster)
    if where.scheduler != "slurm":
        raise UserError(f"cluster {where.name}: has one node, this machine; scale needs a Slurm cluster")
    with naming(config, overrides=overrides or []):
        cells = plan_cells(run, where, output_dir, plan)
    if dry_run:
        _print_plan(console, cells, as_json=as_json)
        return
    reasons: dict[str, str] = {}
    if not report_only:
        done = submit_missing(cells)
        _print_submitted(console, done)
        reasons = dict(done.refused)
        if wait:
            reasons |= _follow(console, [cell for cell in cells if cell.name not in done.refused])
    title = f"{label_of(run)} on {where.name}"
    out = study_folder(run, where, output_dir, plan)
    is_complete = _report(title, plan, cells, out, reasons, as_json=as_json)
    if (wait or report_only) and not is_complete:
        raise typer.Exit(exit_codes.SOME_RUNS_FAILED)


def _print_plan(console: Console, cells: "Sequence[Cell]", *, as_json: bool) -> None:
    from jobs.scale.submitting import planned

    what, texts = planned(cells)
    if as_json:
        typer.echo(json.dumps({"cells": what, "scripts": texts}, ensure_ascii=False))
        return
    for name, text in what.items():
        console.print(f"{name}: {text}", markup=False)
    for number, text in texts.items():
        nodes = f"{number} node{'s'[: number != 1]}"
        console.print(f"\nthe script on {nodes}:", text, sep="\n", markup=False)
    if not texts:
        console.print("nothing to submit")


def _print_submitted(console: Console, done: "SubmittedCells") -> None:
    for name, job in done.submitted.items():
        console.print(f"{name}: job {job}", markup=False)
    kept = [f"{len(done.completed)} complete"] if done.completed else []
    kept += [f"{len(done.queued)} queued already"] if done.queued else []
    kept += [f"{len(done.refused)} refused"] if done.refused else []
    console.print(", ".join([f"{len(done.submitted)} submitted", *kept]))
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    for name, sentence in done.refused.items():
        errors.print(f"error: {name} was not submitted: {sentence}", style="red", markup=False)
    if done.jobs:
        console.print(
            f"the jobs go on without this command; to end them: scancel {' '.join(done.jobs)}", markup=False
        )


def _follow(console: Console, cells: "Sequence[Cell]") -> dict[str, str]:
    """Wait for the cells, and print a line as each ends. Returns why some will not start, by name."""
    from jobs.scale.submitting import follow

    with console.status("waiting") as shown:

        def on_look(cell: "Cell", seen: "RunStatus") -> None:
            step, total = (seen.content.get(name) for name in ("step", "total_steps"))
            at = f", step {step} of {total}" if seen.state == "running" and total else ""
            reason = f": {seen.reason}" if seen.reason else ""
            if seen.is_unfinished:
                shown.update(f"{cell.name}: {seen.state}{at}{reason}")
            else:
                console.print(f"{cell.name}: {seen.state}{reason}", markup=False)

        return follow(cells, on_look)


def _report(
    title: str,
    plan: "ScalePlan",
    cells: "Sequence[Cell]",
    out: Path,
    reasons: dict[str, str],
    *,
    as_json: bool,
) -> bool:
    """Print and write what has been measured; whether every cell has a time.

    `reasons`: why cells were not submitted or do not start, by name.
    """
    from reports.findings.scaling import Scaling, read_timing
    from reports.write.scaling_files import print_scaling, scaling_as_plain, write_scaling

    timings = [
        read_timing(cell.nodes, cell.repeat, cell.folder, reasons.get(cell.name, "")) for cell in cells
    ]
    scaling = Scaling(title, plan.mode, timings)
    if as_json:
        typer.echo(json.dumps(scaling_as_plain(scaling), ensure_ascii=False))
    else:
        print_scaling(Console(), scaling)
    paths = write_scaling(scaling, out)
    console = Console(soft_wrap=True, highlight=False, stderr=as_json)
    console.print(f"results: {', '.join(map(str, paths))}", markup=False)
    return not scaling.unfinished
