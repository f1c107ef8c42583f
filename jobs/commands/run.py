"""`shiftbench run`: train every run of an experiment on this machine."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs.commands import layout
from suite.errors import UserError
from suite.launch import launch_variables

ConfigArgument = Annotated[
    Path,
    typer.Argument(
        help="YAML of an experiment or a study, or the name of a shipped one, such as demo.",
        autocompletion=layout.complete_config,
    ),
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(help="`key=value` overrides, such as `recipe.epochs=5`.", show_default=False),
]


def run(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    output_dir: Annotated[Path, typer.Option(help="Folder for the runs' folders.")] = Path("runs"),
    jobs: Annotated[int, typer.Option(min=1, help="Runs that train at the same time.")] = 1,
    ranks: Annotated[int, typer.Option(min=1, help="Processes (GPUs) for each run, on this machine.")] = 1,
) -> None:
    """Train every run of an experiment or a study; skip completed runs, and resume interrupted ones.

    After Ctrl-C, SIGTERM, SIGHUP or SIGUSR2 the runs write a checkpoint and end; a second Ctrl-C or SIGTERM
    kills them. Under torchrun or srun, the processes that it started train the runs one after another.
    """
    from suite.studies.study import load

    experiment = load(config, overrides or [])
    group = launch_variables(os.environ)
    if group and (jobs > 1 or ranks > 1):
        raise UserError(
            f"--jobs and --ranks start processes, but {group['WORLD_SIZE']} have been started already by "
            "torchrun or srun: remove both options"
        )

    from jobs.exit_codes import DONE
    from suite.config_file import naming
    from suite.data import check_data
    from suite.experiment import check_batches

    with naming(config, overrides=overrides or []):
        check_batches(experiment.runs, int(group["WORLD_SIZE"]) if group else ranks)
        for one in {(run.data, run.batch.global_batch_size): run for run in experiment.runs}.values():
            check_data(one)  # refuses a data set that is missing or too small before anything starts
    console = Console(soft_wrap=True)
    if group:
        from jobs.local.ranked import train_in_turn

        outcome = train_in_turn(experiment.runs, output_dir, int(group["WORLD_SIZE"]))
        console.quiet = group["RANK"] != "0"
    else:
        from jobs.local.launcher import run_all
        from jobs.local.progress import ProgressView

        outcome = run_all(experiment.runs, output_dir, jobs, ranks, ProgressView(console))
    console.print(f"{outcome}; records in {output_dir}", highlight=False)
    if outcome.exit_code != DONE:
        raise typer.Exit(outcome.exit_code)
