"""How the command line's help looks: groups of commands, `-h`, flags without a type, and completion."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

CONTEXT = {"help_option_names": ["-h", "--help"]}


class Command(TyperCommand):
    """A command whose flags are shown without the type that they all have, and whose help flows."""

    def __init__(self, *arguments: Any, help: str | None = None, **options: Any) -> None:
        super().__init__(*arguments, help=_flowing(help or ""), **options)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, flags without a type."""
        return _untyped_flags(super().get_params(ctx))


class Group(TyperGroup):
    """As `Command`, for a command with commands of its own."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, flags without a type."""
        return _untyped_flags(super().get_params(ctx))


def _flowing(text: str) -> str:
    """Join the lines of each paragraph: Typer keeps the line breaks of all but the first."""
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n"))


def _untyped_flags(parameters: Sequence[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_bool_flag", False):
            parameter.metavar = ""
    return list(parameters)


def subcommands(title: str) -> typer.Typer:
    """Return a group of commands within a command."""
    return typer.Typer(cls=Group, no_args_is_help=True, help=title, context_settings=CONTEXT)


def add(app: typer.Typer, panel: str | None, *commands: Callable[..., None]) -> None:
    """Add functions as commands of their names, under a heading of the help."""
    for command in commands:
        app.command(cls=Command, rich_help_panel=panel)(command)


# ------------------------------------------------------------ completion of arguments


def complete_config(incomplete: str) -> list[str]:
    """Return the shipped experiments and studies, and the YAML files, that begin with what is typed."""
    from suite import shipped

    return [name for name in shipped.names() if name.startswith(incomplete)] + _files(incomplete)


def complete_cluster(incomplete: str) -> list[str]:
    """Return the shipped clusters, the user's, and the YAML files, that begin with what is typed."""
    from suite.shipped import CLUSTERS

    folders = (Path("configs/clusters"), CLUSTERS)
    names = dict.fromkeys(sorted(path.stem for folder in folders for path in folder.glob("*.yaml")))
    return [name for name in names if name.startswith(incomplete)] + _files(incomplete)


def complete_run(incomplete: str) -> list[str]:
    """Return the names of the runs in `runs/` that begin with what is typed."""
    return sorted(path.parent.name for path in Path("runs").glob(f"{incomplete}*/run.json"))


def _files(incomplete: str) -> list[str]:
    """Return folders, with a slash, and YAML files, as a shell completes them."""
    found = sorted(Path().glob(f"{incomplete}*")) if not incomplete.startswith(("/", "~")) else []
    folders = [f"{path}/" for path in found if path.is_dir() and not path.name.startswith(".")]
    return [*folders, *(str(path) for path in found if path.suffix in (".yaml", ".yml"))]
