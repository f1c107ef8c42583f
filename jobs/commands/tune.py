"""`shiftbench tune`: a study's trials by Ray Tune, and its answers."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs import exit_codes
from jobs.commands import layout
from jobs.commands.run import OverridesArgument


def tune(
    study: Annotated[
        Path,
        typer.Argument(
            help="YAML of a study, or the name of a shipped one, such as small-batch-demo.",
            autocompletion=layout.complete_config,
        ),
    ],
    overrides: OverridesArgument = None,
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", "-c", help="Where trials run; default: the study's trials.cluster."),
    ] = None,
    output_dir: Annotated[Path, typer.Option(help="Where the runs' folders go.")] = Path("runs"),
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Trials at a time; default: the study's trials.at_a_time.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a study that was begun, or begin it.")
    ] = False,
    accept: Annotated[
        bool, typer.Option("--accept", help="Continue although the study has changed since it began.")
    ] = False,
    ray_address: Annotated[
        str | None, typer.Option(help="Address of a running Ray cluster; default: a Ray of our own.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the answers as JSON, and progress on stderr.")
    ] = False,
) -> None:
    """Run a study by Ray Tune, with early stopping, a search and a budget, and print its answers.

    A trial is an ordinary run: complete ones are read and not run again, and `status` and `report` show them.
    Ctrl-C ends the trials after a checkpoint, and `--resume` continues; a second Ctrl-C ends them at once.
    """
    from jobs.cluster.clusters import is_slurm, load_cluster
    from jobs.local.progress import ProgressView, busy
    from suite.config_file import naming
    from suite.studies.study import load_study

    options = {"cluster": cluster, "at_a_time": jobs, "ray_address": ray_address}
    own = [f"trials.{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
    found = load_study(study, [*(overrides or []), *own])
    where = load_cluster(found.spec.trials.cluster)
    if not is_slurm(where):
        from suite.data import check_data

        with naming(study, overrides=overrides or []):
            for one in {(run.data, run.batch.global_batch_size): run for run in found.samples}.values():
                check_data(one)

    from jobs.tune.engine import import_ray

    console = Console(soft_wrap=True, highlight=False, stderr=as_json)
    with busy(console, "importing Ray"):
        import_ray()
    from jobs.tune.driver import drive
    from reports.collect import cache_folder
    from reports.write.study_answers import as_plain, print_study, write_study
    from suite.terminal import prose_console

    end = drive(found, where, output_dir, ProgressView(console), resume=resume, accept=accept)
    answers = write_study(
        [output_dir / run.folder_name for run in end.runs],
        end.study_folder,
        study=found.name,
        metrics=found.metrics,
        margin_points=found.spec.margin_points,
        cache=cache_folder(),
    )
    if as_json:
        typer.echo(json.dumps(as_plain(answers), ensure_ascii=False))
    else:
        print_study(prose_console(), answers)
    console.print(f"Tune's folder, with TensorBoard's logs: {end.tune_folder}", markup=False)
    if end.stopped_by is not None:
        console.print(f"stopped by {end.stopped_by.name}: --resume continues", markup=False)
    elif end.spent is not None:
        console.print(f"{end.spent}: --resume continues once it is raised", markup=False)
    for sentence in end.errors:
        Console(stderr=True, soft_wrap=True).print(f"error: {sentence}", style="red", markup=False)
    ended_well = answers.states.get("completed", 0) + answers.states.get("stopped", 0)
    has_all = ended_well == len(end.runs) and not end.errors
    code = exit_codes.of_study(has_all, end.stopped_by, is_spent=end.spent is not None)
    if code != exit_codes.DONE:
        raise typer.Exit(code)
