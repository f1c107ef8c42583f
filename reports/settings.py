"""The settings of runs: what decides their results besides norm, batch, model and data, and differs."""

import json
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd


def varying_fields(axes: pd.DataFrame, deciding: Sequence[str]) -> set[str]:
    """What decides the result and differs between runs that are alike in these axes, a row for each run."""
    fields = _parsed(deciding)
    cells = axes.assign(deciding=deciding).drop_duplicates()
    varying: set[str] = set()
    for _, texts in cells.groupby(list(axes.columns), sort=False).deciding:
        varying.update(differing([fields[text] for text in texts]))
    return varying


def differing(runs: Sequence[Mapping[str, str]]) -> list[str]:
    """The fields in which some runs differ, among those that have them.

    A part, such as recipe.swa, is one field where it is null, and several where it is not: the part itself
    differs then.
    """
    names = dict.fromkeys(name for fields in runs for name in fields)
    parts = {name.rpartition(".")[0] for name in names}
    return [
        name
        for name in names
        if name in parts or len({fields[name] for fields in runs if name in fields}) > 1
    ]


def settings_texts(deciding: Sequence[str], shown: Iterable[str]) -> list[str]:
    """For each run `field=value` of those of these fields that it has."""
    fields, shown = _parsed(deciding), sorted(shown)
    parts = {
        text: ", ".join(f"{name.partition('.')[2]}={has[name]}" for name in shown if name in has)
        for text, has in fields.items()
    }
    return [parts[text] for text in deciding]


def _parsed(deciding: Sequence[str]) -> dict[str, dict[str, str]]:
    return {text: json.loads(text) for text in dict.fromkeys(deciding)}
