"""An experiment's runs for a terminal: what all have in common, and a row for each cell of what varies."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from suite.experiment import Run

LEFT_OUT = ("experiment", "seed")


def print_runs(console: Console, title: str, runs: Sequence[Run]) -> None:
    """Print the title, the values other than defaults that all runs have, and a row for each cell."""
    norms = {run.model.norm for run in runs}
    is_told = len({norm.label for norm in norms}) == len(norms)  # else labels leave out what varies
    values = [dict(_values(run, (), is_told)) for run in runs]
    keys = list(dict.fromkeys(key for one in values for key in one))
    varying = [key for key in keys if len({_text(one.get(key)) for one in values}) > 1]
    usual = {key: value for run in runs for key, value in _defaults(run, ())}
    common = [
        f"{key}={_text(values[0][key])}"
        for key in keys
        if key not in varying and values[0][key] != usual.get(key)
    ]
    console.print(Text(title, "bold"))
    if common:
        console.print(Text("in every run: ", "dim").append(", ".join(common), "default"))
    cells: dict[tuple[str, ...], list[int]] = {}
    for run, one in zip(runs, values, strict=True):
        cells.setdefault(tuple(_text(one.get(key)) for key in varying), []).append(run.seed)
    table = Table(*varying, "seeds", box=None, pad_edge=False, header_style="bold")
    for column in table.columns:
        column.overflow = "fold"
    for cell, seeds in cells.items():
        table.add_row(*map(Text, cell), Text(_ranges(seeds)))
    console.print(table)
    console.print(Text("--full shows every value, and the run_ids", "dim"))


def _values(part: BaseModel, keys: tuple[str, ...], is_labelled: bool) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a run by dotted key; a norm is its label, or its fields."""
    for name in type(part).model_fields:
        value = getattr(part, name)
        if not keys and name in LEFT_OUT:
            continue
        if hasattr(value, "label"):
            shown = value.label if is_labelled else value.model_dump_json(exclude_none=True)
            yield ".".join((*keys, name)), shown
        elif isinstance(value, BaseModel):
            yield from _values(value, (*keys, name), is_labelled)
        else:
            yield ".".join((*keys, name)), value


def _defaults(part: BaseModel, keys: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the default of each of these fields."""
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        if isinstance(value, BaseModel) and not hasattr(value, "label"):
            yield from _defaults(value, (*keys, name))
        elif hasattr(field.default, "label"):
            yield ".".join((*keys, name)), field.default.label
        else:
            yield ".".join((*keys, name)), field.default


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _ranges(seeds: Sequence[int]) -> str:
    """Return `0–2, 7` for 0, 1, 2 and 7."""
    parts: list[list[int]] = []
    for seed in sorted(seeds):
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ", ".join(f"{part[0]}–{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
