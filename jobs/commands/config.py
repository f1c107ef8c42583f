"""`shiftbench config`: shows an experiment before it runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from jobs.commands import layout
from jobs.commands.run import ConfigArgument, OverridesArgument

if TYPE_CHECKING:
    from suite.experiment import Run

app = layout.subcommands("Show an experiment before it runs.")


@app.command("show", cls=layout.Command)
def show(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    full: Annotated[bool, typer.Option("--full", help="Every value of every run, as YAML.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each run.")] = False,
) -> None:
    """Show the runs of an experiment or a study: what they have in common, and a table of what varies."""
    from jobs.commands.config_table import print_runs
    from suite.studies.study import Study, load

    found = load(config, overrides or [])
    runs = found.samples if isinstance(found, Study) else found.runs
    if as_json:
        for run in runs:
            typer.echo(json.dumps(_content(run)))
        return
    kind = f"study with {len(found.points)} points, " if isinstance(found, Study) else ""
    title = f"{found.name}: {kind}{len(runs)} run{'s'[: len(runs) != 1]}"
    if isinstance(found, Study):
        if found.is_proposed:
            search = found.spec.search
            title = (
                f"{found.name}: {search.num_proposed} points that {search.kind} proposes, "
                f"{found.num_trials} runs; those at the corners of its space are shown"
            )
        title += "; " + ", ".join(f"{one.metric} ({one.mode})" for one in found.spec.objectives)
    if full:
        import yaml

        typer.echo(f"# {title}")
        for run in runs:
            typer.echo("---\n" + yaml.safe_dump(_content(run), sort_keys=False, allow_unicode=True), nl=False)
    else:
        print_runs(Console(highlight=False), title, runs)


@app.command("schema", cls=layout.Command)
def schema(
    config: Annotated[
        Path | None,
        typer.Argument(
            help="An experiment whose values to show, by its path or shipped name.",
            autocompletion=layout.complete_config,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON schema of a resolved run.")] = False,
) -> None:
    """List every key of an experiment: type, default, meaning, and its values in CONFIG."""
    from jobs.commands.schema import print_schema
    from suite.config import load_experiment
    from suite.experiment import Run

    if as_json:
        typer.echo(json.dumps(Run.model_json_schema(), indent=1))
        return
    print_schema(Console(highlight=False), load_experiment(config) if config else None)


def _content(run: "Run") -> dict[str, object]:
    return {"run_id": run.run_id, **run.model_dump(mode="json")}
