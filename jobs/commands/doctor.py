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

from jobs.commands.submit import ClusterOption, OutputOption

if TYPE_CHECKING:
    from jobs.doctor.finding import Finding

# The mark, the style, and the words for one and for several findings.
MARKS = {
    "problem": ("✗", "bold red", "problem", "problems"),
    "warning": ("!", "yellow", "warning", "warnings"),
    "unknown": ("?", "cyan", "not checked", "not checked"),
    "ok": ("✓", "green", "ok", "ok"),
}


def doctor(
    cluster: ClusterOption = "local",
    data: Annotated[list[Path] | None, typer.Option(help="Images that jobs will read; repeatable.")] = None,
    config: Annotated[Path | None, typer.Option(help="Check the data folders of this experiment.")] = None,
    output_dir: OutputOption = Path("runs"),
    wait_s: Annotated[int, typer.Option("--wait", min=1, help="Seconds to wait for nodes to be free.")] = 120,
    with_nodes: Annotated[bool, typer.Option("--nodes/--no-nodes", help="Check nodes by a job.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each finding.")] = False,
) -> None:
    """Check a cluster from here and from its nodes, and say how to fix what is wrong.

    The exit code is 0 if there is no problem (warnings are allowed), else 1.
    """
    from jobs import exit_codes
    from jobs.cluster.clusters import load_cluster
    from jobs.doctor.examine import examine

    where = load_cluster(cluster)
    folders = list(dict.fromkeys([*map(str, data or []), *(_data_of(config) if config else [])]))
    console = Console(highlight=False)
    counts: Counter[str] = Counter()
    with console.status("checking") if console.is_terminal and not as_json else nullcontext():
        for finding in examine(where, output_dir, folders, wait_s, with_nodes):
            counts[finding.verdict] += 1
            if as_json:
                typer.echo(json.dumps(asdict(finding), ensure_ascii=False))
            else:
                console.print(_line(finding))
    parts = [
        Text(f"{counts[verdict]} {several if counts[verdict] > 1 else one}", style)
        for verdict, (_, style, one, several) in MARKS.items()
        if counts[verdict]
    ]
    nothing = Text("nothing was checked: this machine has only the checks that --no-nodes skips")
    if not as_json:
        console.print(Text("\n").append(Text(", ").join(parts)) if parts else nothing)
    if counts["problem"]:
        raise typer.Exit(exit_codes.FAILURE)


def _data_of(config: Path) -> list[str]:
    from suite.studies.study import Study, load

    found = load(config)
    runs = found.samples if isinstance(found, Study) else found.runs
    return sorted({run.data.path for run in runs if run.data.path})


def _line(finding: "Finding") -> RenderableType:
    mark, style, *_ = MARKS[finding.verdict]
    row = Table.grid(padding=(0, 1))
    row.add_column(width=1)
    row.add_column(width=25)
    row.add_column(overflow="fold")
    text = Text(finding.found)
    if finding.fix:
        text.append("\nfix: ", "bold").append(finding.fix)
    row.add_row(Text(mark, style), Text(finding.check, "" if finding.verdict == "ok" else style), text)
    return row
