"""`shiftbench submit`: submits the runs of an experiment to a cluster."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from jobs import exit_codes
from jobs.commands import layout
from jobs.commands.run import ConfigArgument, OverridesArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobs.cluster.clusters import AnyCluster
    from jobs.cluster.submit import Submitted
    from suite.experiment import Run

ClusterOption = Annotated[
    str,
    typer.Option(
        "--cluster",
        "-c",
        help="A cluster's YAML, or a name in configs/clusters.",
        autocompletion=layout.complete_cluster,
    ),
]
OutputOption = Annotated[Path, typer.Option("--output-dir", help="The folder of the runs' folders.")]
NAMES = "Names, ids (or the beginning of one), folders or jobs of runs"
RunsArgument = Annotated[
    list[str] | None,
    typer.Argument(help=f"{NAMES}; default: all.", show_default=False, autocompletion=layout.complete_run),
]
NamedRunsArgument = Annotated[
    list[str] | None,
    typer.Argument(help=f"{NAMES}.", show_default=False, autocompletion=layout.complete_run),
]


def submit(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    cluster: ClusterOption = "local",
    output_dir: OutputOption = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the scripts; write nothing.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show the runs' progress until all have ended.")
    ] = False,
) -> None:
    """Submit every run of an experiment or a study to a cluster, and return at once.

    With --follow it returns when the runs have ended; after Ctrl-C they go on without it. Completed, queued
    and running runs are left alone: the same command again submits only what is missing. Runs that were
    cancelled and are still ending are waited for, for less than a minute.
    """
    from jobs.cluster.clusters import load_cluster
    from jobs.cluster.submit import plan, submit
    from suite.config_file import naming
    from suite.experiment import check_batches
    from suite.studies.study import load
    from suite.user import expand_path

    experiment = load(config, overrides or [])
    where = load_cluster(cluster)
    with naming(config, overrides=overrides or []):
        check_batches(experiment.runs, where.ranks)
    console = Console(soft_wrap=True, highlight=False)
    for path in sorted({run.data.path for run in experiment.runs if run.data.path}):
        if not expand_path(path, "data.path").is_dir():
            check = shlex.join(["shiftbench", "doctor", "--cluster", cluster, "--data", path])
            console.print(f"note: {path} is not visible here; to check the cluster: {check}", markup=False)
    if dry_run:
        planned = plan(experiment.runs, where, output_dir)
        _print_plan(console, planned, where, output_dir, experiment.name)
        if planned.unreadable:
            raise typer.Exit(exit_codes.SOME_RUNS_FAILED)
        return
    done = submit(experiment.runs, where, output_dir, experiment.name)
    print_submitted(console, done, output_dir)
    has_all = not (done.refused or done.unreadable or done.ending)
    if follow and (begun := {name for one in done.jobs for name in one.folders} | {*done.queued}):
        has_all &= _follow([run for run in experiment.runs if run.folder_name in begun], output_dir)
    if not has_all:
        raise typer.Exit(exit_codes.SOME_RUNS_FAILED)


def _follow(runs: "Sequence[Run]", output_dir: Path) -> bool:
    """Show the progress of submitted runs until they have ended. Returns whether all completed."""
    from jobs.cluster.follow import follow
    from jobs.local.progress import ProgressView

    console = Console(soft_wrap=True, highlight=False)
    try:
        ended = follow(runs, output_dir, ProgressView(console))
    except SystemExit:  # Ctrl-C
        console.print("the runs go on; `shiftbench status --watch` shows them, `shiftbench cancel` ends them")
        raise
    completed = sum(one.state == "completed" for one in ended)
    console.print(f"{completed} of {len(ended)} runs completed")
    return completed == len(ended)


def _print_plan(
    console: Console, planned: "Submitted", where: "AnyCluster", output_dir: Path, experiment: str
) -> None:
    from jobs.cluster.submit import scripts

    for name in planned.completed:
        console.print(f"complete  {name}", markup=False)
    for name, job in planned.queued.items():
        console.print(f"queued    {name}  {f'job {job}' if job[:1].isdigit() else job}", markup=False)
    for name, job in planned.ending.items():
        console.print(
            f"ending    {name}  job {job}, which is waited for before it is submitted again", markup=False
        )
    print_unreadable(planned)
    container = where.container if where.scheduler == "slurm" else None
    if container is not None and (why := container.unchecked):
        console.print(f"not checked: container.image: {container.image}: {why}", markup=False)
    for runs, script in scripts(planned, where, output_dir, experiment):
        for number, run in enumerate(runs):
            console.print(f"[{number}]".ljust(9), run.folder_name, markup=False)
        console.print("", script, sep="\n", markup=False)
    if not planned.left:
        console.print("nothing to submit")


def print_unreadable(done: "Submitted") -> None:
    """Print a line for each run that is left alone because of what is wrong with its files."""
    for name, sentence in done.unreadable.items():
        print_error(f"{name} was not submitted: {sentence}")


def print_error(sentence: str) -> None:
    """Print an error after which the command goes on."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"error: {sentence}", style="red", markup=False)


def print_submitted(console: Console, done: "Submitted", output_dir: Path) -> None:
    """Print what was submitted, what was not, and the next command to type."""
    from jobs.cluster.clusters import backend_of

    for one in done.jobs:
        number, noun = len(one.folders), backend_of(one).job_noun
        console.print(f"{noun} {one.job_id}: {number} run{'s'[: number != 1]} ({one.name})", markup=False)
    kept = [f"{len(done.completed)} complete"] if done.completed else []
    kept += [f"{len(done.queued)} queued already"] if done.queued else []
    kept += [f"{len(done.ending)} still ending"] if done.ending else []
    kept += [f"{len(done.unreadable)} left alone"] if done.unreadable else []
    console.print(", ".join([f"{done.num_submitted} submitted", *kept]))
    for name, job in done.ending.items():
        late = f"its job {job} has not ended yet; run the same command again"
        print_error(f"{name} was not submitted: {late}")
    print_unreadable(done)
    if done.waits_for:
        jobs = ", ".join(done.waits_for[:5]) + (", …" if len(done.waits_for) > 5 else "")
        limit = "its array_parallelism limits the runs at a time; a file of another name counts anew"
        console.print(f"waits for {jobs} of this cluster: {limit}", markup=False)
    if done.refused:
        print_error(f"{len(done.left)} runs were not submitted: {done.refused}; run the same command again")
    option = [] if output_dir == Path("runs") else ["--output-dir", str(output_dir)]
    console.print("next:", shlex.join(["shiftbench", "status", "--watch", *option]), markup=False)
