"""Shows the keys of an experiment, a paragraph for each."""

import json
import typing
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from suite.config import FIXED, SWEEPING
from suite.experiment import BatchFreeSpec, DetectionSpec, Experiment, Run, VariantSpec, XbnSpec
from suite.specs.dali import DaliSpec
from suite.specs.norm_table import BATCH_FREE_NORMS, BATCH_NORM_VARIANTS
from suite.specs.recipe import SwaSpec


def print_schema(console: Console, experiment: Experiment | None) -> None:
    """Print every field: its key, type and default, its meaning, and its values in `experiment`.

    Each is a paragraph, so that no key or value is cut, however narrow the terminal is.
    """
    runs = experiment.runs if experiment else ()
    sections: dict[str, type[BaseModel]] = {
        **{section: spec for section, spec in SWEEPING.items() if section != "task"},
        "task (detection)": DetectionSpec,
        "model.norm (xbn)": XbnSpec,
        f"model.norm ({', '.join(BATCH_FREE_NORMS)})": BatchFreeSpec,
        f"model.norm ({', '.join(BATCH_NORM_VARIANTS)})": VariantSpec,
        "recipe.swa": SwaSpec,
        **FIXED,
        "system.dali": DaliSpec,
    }
    for section, spec in sections.items():
        console.print(Text(f"\n{section}", "bold"))
        for name, field in spec.model_fields.items():
            default = "required" if field.default is PydanticUndefined else json.dumps(_plain(field.default))
            here = _values(runs, section, name) if experiment else ""
            _print_field(console, name, _type_name(field.annotation), default, field.description or "", here)
    here = ", ".join(sorted({str(run.seed) for run in runs}))
    console.print(Text("\nseeds", "bold"))
    _print_field(console, "seeds", "list[int]", "[0]", "every cell is trained with each seed", here)


def _print_field(console: Console, key: str, kind: str, default: str, meaning: str, here: str) -> None:
    lines = [Text(f"  {key}", "cyan").append(f"  {kind}; default {default}", "dim")]
    if default == "required":
        lines = [Text(f"  {key}", "cyan").append(f"  {kind}; required", "dim")]
    if meaning:
        lines.append(Text(meaning))
    if here:
        lines.append(Text("here: ", "dim").append(here, "green"))
    console.print(lines[0], overflow="fold")
    for line in lines[1:]:
        console.print(Padding(line, (0, 0, 0, 6)), overflow="fold")


def _values(runs: tuple[Run, ...], section: str, name: str) -> str:
    """Return the different values of a key over the runs."""
    parts = [getattr(run, section.removesuffix(" (detection)"), None) for run in runs]
    values = dict.fromkeys(json.dumps(_plain(getattr(part, name))) for part in parts if hasattr(part, name))
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
