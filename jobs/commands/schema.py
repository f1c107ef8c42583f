"""Shows the keys of an experiment as a table."""

import json
import typing
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from rich.markup import escape
from rich.table import Table

from suite.config import FIXED, SWEEPING
from suite.experiment import BatchFreeSpec, DetectionSpec, Experiment, Run, VariantSpec, XbnSpec
from suite.specs.dali import DaliSpec
from suite.specs.norm_table import BATCH_FREE_NORMS, BATCH_NORM_VARIANTS
from suite.specs.recipe import SwaSpec


def schema_table(experiment: Experiment | None) -> Table:
    """Return a table of every field: key, type, default, the values in `experiment`, meaning."""
    runs = experiment.runs if experiment else ()
    table = Table("key", "type", "default", *[experiment.name] if experiment else [], "meaning", box=None)
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
        for name, field in spec.model_fields.items():
            default = "required" if field.default is PydanticUndefined else json.dumps(_plain(field.default))
            here = [_values(runs, section, name)] if experiment else []
            row = (f"{section}.{name}", _type_name(field.annotation), default, *here, field.description or "")
            table.add_row(*map(escape, row))
    seeds = [", ".join(sorted({str(run.seed) for run in runs}))] if experiment else []
    table.add_row("seeds", escape("list[int]"), escape("[0]"), *seeds, "every cell is trained with each seed")
    return table


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
