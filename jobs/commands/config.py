"""`shiftbench config`: look at an experiment before it runs."""

import json
import typing
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.commands.run import ConfigArgument, OverridesArgument
from suite.config import FIXED, SWEEPING, load_experiment
from suite.experiment import BatchFreeSpec, Run, XbnSpec

app = typer.Typer(no_args_is_help=True, help="Look at an experiment before it runs.")


@app.command("show")
def show(config: ConfigArgument, overrides: OverridesArgument = None) -> None:
    """Print the resolved runs as YAML, with their run_ids."""
    experiment = load_experiment(config, overrides or [])
    for run in experiment.runs:
        content = {"run_id": run.run_id, **run.model_dump(mode="json")}
        typer.echo("---\n" + yaml.safe_dump(content, sort_keys=False, allow_unicode=True), nl=False)


@app.command("schema")
def schema(
    config: Annotated[Path | None, typer.Argument(help="Show its values beside the defaults.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The JSON schema of one resolved run.")] = False,
) -> None:
    """List every key of an experiment: type, default, meaning, and what CONFIG makes of it."""
    if as_json:
        typer.echo(json.dumps(Run.model_json_schema(), indent=1))
        return
    runs = load_experiment(config).runs if config else ()
    table = Table("key", "type", "default", *[config.name] if config else [], "meaning", box=None)
    sections: dict[str, type[BaseModel]] = {
        **SWEEPING,
        "model.norm (xbn)": XbnSpec,
        "model.norm (gn, ln, in, gw)": BatchFreeSpec,
        **FIXED,
    }
    for section, spec in sections.items():
        for name, field in spec.model_fields.items():
            default = "required" if field.default is PydanticUndefined else json.dumps(_plain(field.default))
            here = [_values(runs, section, name)] if config else []
            row = (f"{section}.{name}", _type_name(field.annotation), default, *here, field.description or "")
            table.add_row(*map(escape, row))
    seeds = [", ".join(sorted({str(run.seed) for run in runs}))] if config else []
    table.add_row("seeds", escape("list[int]"), escape("[0]"), *seeds, "every cell is run with each")
    Console().print(table)


def _values(runs: tuple[Run, ...], section: str, name: str) -> str:
    """The different values that a key takes over the runs."""
    parts = [getattr(run, section, None) for run in runs]
    values = dict.fromkeys(json.dumps(_plain(getattr(part, name))) for part in parts if part is not None)
    return ", ".join(values)


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, BaseModel) else value


def _type_name(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(str(value) for value in typing.get_args(annotation))
    arguments = typing.get_args(annotation)
    if arguments and typing.get_origin(annotation) is not tuple:
        return " | ".join(_type_name(a) for a in arguments)
    return str(getattr(annotation, "__name__", annotation)).replace("NoneType", "null")
