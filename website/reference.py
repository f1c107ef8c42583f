"""Pages that are written from the code: all commands with their options, and all keys of an experiment."""

import json
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from jobs.cli import app
from suite.experiment import Run
from suite.wording import expected, models_of


def commands_page() -> str:
    """Return the help of every command as Markdown."""
    parts = [
        "# All options",
        "What `shiftbench COMMAND --help` prints. [Commands](commands.md) is an overview.",
    ]
    for path, command in _commands("shiftbench", typer.main.get_command(app)):
        context = command.make_context(path, [], resilient_parsing=True)
        usage = " ".join([path, *map(_metavar, command.collect_usage_pieces(context))])
        rows = [_parameter(p) for p in command.params if "--help" not in p.opts and not p.hidden]
        parts += [f"## {path}", f"```console\n$ {usage}\n```", _plain(command.help or "")]
        if rows:
            parts.append(_table(("", "default", "meaning"), rows))
    return "\n\n".join(parts) + "\n"


def _commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Yield every command below this one that does something, with what is typed for it."""
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, one in command.commands.items():
        if not one.hidden:
            yield from _commands(f"{path} {name}", one)


def _metavar(piece: str) -> str:
    """Return an argument's place in capitals, in the brackets of an optional one."""
    return piece.replace("{", "").replace("}", "").upper()


def _parameter(parameter: Any) -> tuple[str, str, str]:
    if parameter.param_type_name == "argument":
        name = f"`{parameter.name.upper()}`"
    else:
        name = ", ".join(f"`{one}`" for one in (*parameter.opts, *parameter.secondary_opts))
    default = parameter.default
    shown = "required" if parameter.required else "" if default in (None, False) else f"`{default}`"
    return name, shown, _plain(getattr(parameter, "help", None) or "")


def _plain(text: str) -> str:
    """Return help as Markdown: what a terminal would underline or colour is left out."""
    return text.replace("\b\n", "").replace("\\[", "[")


def keys_page() -> str:
    """Return every key of an experiment with its values, default and meaning, as Markdown."""
    lead = (
        "An experiment is a YAML file with these sections, and `seeds`, a list (default: `[0]`)."
        " A list of values is swept. `shiftbench config show FILE` prints the runs that a file gives."
    )
    parts = ["# All keys of an experiment", lead]
    for key, kinds, spec in _sections("", Run):
        rows = [
            (
                f"`{name}`",
                expected(field.annotation, field.metadata),
                _default(field),
                field.description or "",
            )
            for name, field in spec.model_fields.items()
            if not models_of(field.annotation) and (key or name not in ("experiment", "seed"))
        ]
        if key:
            parts += [f"## {key}{f' ({kinds})' if kinds else ''}", (spec.__doc__ or "").strip()]
        if rows:
            parts.append(_table(("key", "value", "default", "meaning"), rows))
    return "\n\n".join(parts) + "\n"


def _sections(key: str, spec: type[BaseModel]) -> Iterator[tuple[str, str, type[BaseModel]]]:
    """Yield a spec and those in its fields: the key, the kinds that it is for, and the spec."""
    kind = spec.model_fields.get("kind")
    yield key, ", ".join(typing.get_args(kind.annotation)) if kind else "", spec
    for name, field in spec.model_fields.items():
        for model in models_of(field.annotation):
            yield from _sections(f"{key}.{name}".lstrip("."), model)


def _default(field: Any) -> str:
    if field.default is PydanticUndefined:
        return "required"
    return f"`{json.dumps(field.default)}`"


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_in_a_cell, line))} |" for line in lines)


def _in_a_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
