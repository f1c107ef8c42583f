"""`shiftbench submit` and `retry`: runs to a cluster, and back to the prompt."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from jobs import exit_codes
from jobs.commands.run import ConfigArgument, OverridesArgument

if TYPE_CHECKING:
    from jobs.cluster.submit import AnyCluster, SubmitPlan, Submitted
    from suite.experiment import Run

ClusterOption = Annotated[
    str, typer.Option("--cluster", "-c", help="A name in configs/clusters, or the path of a YAML file.")
]
OutputOption = Annotated[Path, typer.Option("--output-dir", help="Where the runs' folders go.")]
RunsArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Run ids (or their beginnings), folders or jobs; default: all.", show_default=False),
]


def submit(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    cluster: ClusterOption = "local",
    output_dir: OutputOption = Path("runs"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cells and the sbatch script, and touch nothing.")
    ] = False,
) -> None:
    """Submit every run of an experiment or a study to a cluster, and return at once.

    What is complete, queued or running is left alone: the same command again submits only what is missing.
    """
    from jobs.cluster.clusters import load_cluster
    from jobs.cluster.submit import plan, submit
    from suite.studies.study import load

    experiment = load(config, overrides or [])
    where = load_cluster(cluster)
    console = Console(soft_wrap=True, highlight=False)
    _warn_of_data(console, experiment.runs, cluster)
    if dry_run:
        planned = plan(experiment.runs, where, output_dir)
        _print_plan(console, planned, where, output_dir, experiment.name)
        return
    done = submit(experiment.runs, where, output_dir, experiment.name)
    _tell(console, done, output_dir)
    if done.refused:
        raise typer.Exit(exit_codes.SOME_RUNS_FAILED)


def retry(
    runs: RunsArgument = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="All that failed, were cancelled, or stopped for good.")
    ] = False,
    cluster: Annotated[
        str | None, typer.Option("--cluster", "-c", help="Another cluster; default: each run's last one.")
    ] = None,
    output_dir: OutputOption = Path("runs"),
) -> None:
    """Submit runs again that did not complete; they resume from their newest checkpoint."""
    from jobs.cluster.control import resubmissions, to_retry
    from jobs.cluster.ledger import Ledger
    from jobs.cluster.overview import overview
    from jobs.cluster.submit import submit
    from suite.errors import UserError

    if not runs and not failed:
        raise UserError("say which runs, or --failed for all that failed, were cancelled or stopped for good")
    seen = overview(output_dir).select(runs or [])
    chosen, refused = to_retry(seen, cluster, Ledger(output_dir), named=bool(runs))
    console = Console(soft_wrap=True, highlight=False)
    if not chosen and not refused:
        console.print("nothing to retry")
    for where, name, group in resubmissions(chosen, cluster):
        try:
            done = submit(group, where, output_dir, name)
        except UserError as error:  # another cluster may take its runs
            refused.append(str(error))
        else:
            refused += [done.refused] if done.refused else []
            _tell(console, done, output_dir)
    if refused:
        raise UserError("; ".join(refused))


def _warn_of_data(console: Console, runs: "tuple[Run, ...]", cluster: str) -> None:
    for path in sorted({run.data.path for run in runs if run.data.path}):
        if not Path(path).expanduser().is_dir():
            check = shlex.join(["shiftbench", "doctor", "--cluster", cluster, "--data", path])
            console.print(
                f"note: {path} is not visible here; to check where the runs go: {check}", markup=False
            )


def _print_plan(
    console: Console, planned: "SubmitPlan", where: "AnyCluster", output_dir: Path, experiment: str
) -> None:
    from jobs.cluster.submit import scripts, split

    for name in planned.completed:
        console.print(f"complete  {name}", markup=False)
    for name, job in planned.queued.items():
        console.print(f"queued    {name}  {f'job {job}' if job[:1].isdigit() else job}", markup=False)
    chunks = split(planned.to_submit, where)
    for chunk, script in zip(chunks, scripts(chunks, where, output_dir, experiment), strict=True):
        for number, run in enumerate(chunk):
            console.print(f"[{number}]".ljust(9), run.folder_name, markup=False)
        console.print("", script, sep="\n", markup=False)
    if not planned.to_submit:
        console.print("nothing to submit")


def _tell(console: Console, done: "Submitted", output_dir: Path) -> None:
    """What was submitted, what was not, and the next command to type."""
    for one in done.jobs:
        number = len(one.folders)
        kind = "job" if one.is_slurm else "launcher"
        console.print(f"{kind} {one.job_id}: {number} run{'s'[: number != 1]} ({one.name})", markup=False)
    kept = [f"{len(done.completed)} complete"] if done.completed else []
    kept += [f"{len(done.queued)} queued already"] if done.queued else []
    console.print(", ".join([f"{done.num_submitted} submitted", *kept]))
    if done.refused:
        Console(stderr=True, soft_wrap=True).print(
            f"error: {len(done.left)} runs were not submitted: {done.refused}; run the same command again",
            style="red",
            markup=False,
            highlight=False,
        )
    option = [] if output_dir == Path("runs") else ["--output-dir", str(output_dir)]
    console.print("next:", shlex.join(["shiftbench", "status", "--watch", *option]), markup=False)
