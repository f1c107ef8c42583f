"""`shiftbench config`: shows an experiment before it runs."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs.commands.run import ConfigArgument, OverridesArgument

app = typer.Typer(no_args_is_help=True, help="Show an experiment before it runs.")


@app.command("show")
def show(config: ConfigArgument, overrides: OverridesArgument = None) -> None:
    """Print the resolved runs of an experiment or a study as YAML, with their run_ids."""
    import yaml

    from suite.studies.study import Study, load

    found = load(config, overrides or [])
    if isinstance(found, Study):
        objectives = ", ".join(f"{one.metric} ({one.mode})" for one in found.spec.objectives)
        if found.is_proposed:
            search = found.spec.search
            points = f"{search.num_proposed} points that {search.kind} proposes"
            typer.echo(f"# {found.name}: {points}, {found.num_trials} runs; {objectives}")
            typer.echo("# The runs at the corners of its space:")
        else:
            typer.echo(f"# {found.name}: {len(found.points)} points, {len(found.runs)} runs; {objectives}")
    for run in found.samples if isinstance(found, Study) else found.runs:
        content = {"run_id": run.run_id, **run.model_dump(mode="json")}
        typer.echo("---\n" + yaml.safe_dump(content, sort_keys=False, allow_unicode=True), nl=False)


@app.command("schema")
def schema(
    config: Annotated[Path | None, typer.Argument(help="An experiment whose values to show.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON schema of a resolved run.")] = False,
) -> None:
    """List every key of an experiment: type, default, meaning, and its values in CONFIG."""
    from jobs.commands.schema import schema_table
    from suite.config import load_experiment
    from suite.experiment import Run

    if as_json:
        typer.echo(json.dumps(Run.model_json_schema(), indent=1))
        return
    Console().print(schema_table(load_experiment(config) if config else None))
