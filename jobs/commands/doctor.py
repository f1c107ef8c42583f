"""`shiftbench doctor`: prints what a cluster lacks before the first job, and how to fix it."""

import json
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from jobs.commands import layout
from jobs.commands.submit import ClusterOption, OutputOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobs.doctor.finding import Finding
    from suite.experiment import Run

# How each verdict is marked, coloured and counted.
STYLES = {
    "problem": ("✗", "bold red", "problems"),
    "warning": ("!", "yellow", "warnings"),
    "unknown": ("?", "cyan", "not checked"),
    "ok": ("✓", "green", "ok"),
}


def doctor(
    cluster: ClusterOption = "local",
    data: Annotated[
        list[Path] | None, typer.Option(help="A folder of images that jobs will read; repeatable.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Check the data folders of this experiment.", autocompletion=layout.complete_config
        ),
    ] = None,
    output_dir: OutputOption = Path("runs"),
    wait_s: Annotated[int, typer.Option("--wait", min=1, help="Seconds to wait for nodes to be free.")] = 120,
    with_nodes: Annotated[
        bool, typer.Option("--nodes/--no-nodes", help="Start a short job that checks the nodes, too.")
    ] = True,
    bandwidth: Annotated[
        bool,
        typer.Option(
            "--bandwidth", help="Also measure all-reduces in and between nodes, and reading of --data."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each finding.")] = False,
) -> None:
    """Check a cluster from here and from its nodes, and say how to fix what is wrong.

    The exit code is 0 if there is no problem (warnings are allowed), else 1.
    """
    from jobs import exit_codes
    from jobs.cluster.clusters import load_cluster
    from jobs.doctor.examine import examine
    from suite.data.workers import shared_memory_of_run

    where = load_cluster(cluster)
    runs = _runs_of(config) if config else []
    used = sorted({run.data.path for run in runs if run.data.path})
    folders = list(dict.fromkeys([*map(str, data or []), *used]))
    shm_mib = max((shared_memory_of_run(run) for run in runs), default=0) * where.tasks_per_node >> 20
    console, counts = Console(highlight=False), Counter[str]()
    with console.status("checking") if console.is_terminal and not as_json else nullcontext():
        for finding in examine(where, output_dir, folders, wait_s, with_nodes, shm_mib, bandwidth):
            counts[finding.verdict] += 1
            if as_json:
                typer.echo(json.dumps(asdict(finding), ensure_ascii=False))
            else:
                console.print(_line(finding))
    if not as_json:
        nothing = Text("nothing was checked: this machine has only the nodes' checks, which --no-nodes skips")
        parts = []
        for verdict, number in sorted(counts.items(), key=lambda item: list(STYLES).index(item[0])):
            _, style, name = STYLES[verdict]
            parts.append(Text(f"{number} {name.removesuffix('s') if number == 1 else name}", style))
        console.print(Text("\n").append(Text(", ").join(parts)) if parts else nothing)
    if counts["problem"]:
        raise typer.Exit(exit_codes.FAILURE)


def _runs_of(config: Path) -> "Sequence[Run]":
    from suite.studies.study import Study, load

    found = load(config)
    return found.samples if isinstance(found, Study) else found.runs


def _line(finding: "Finding") -> RenderableType:
    mark, style, _ = STYLES[finding.verdict]
    row = Table.grid(padding=(0, 1))
    row.add_column(width=1)
    row.add_column(width=25)
    row.add_column(overflow="fold")
    text = Text(finding.found)
    if finding.fix:
        text.append("\nfix: ", "bold").append(finding.fix)
    row.add_row(Text(mark, style), Text(finding.check, "" if finding.verdict == "ok" else style), text)
    return row
