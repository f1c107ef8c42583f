"""Closed choices: tables of named entries, from which the fields, their help and the code follow."""

import importlib
from collections.abc import Iterable, Mapping
from typing import Any


def listed(names: Iterable[object], word: str = "and") -> str:
    """Join names as a sentence does: "a, b and c"."""
    *most, last = map(str, names)
    return f"{', '.join(most)} {word} {last}" if most else last


def described(table: Mapping[str, Any], separator: str = "; ") -> str:
    """Return what each entry of a table means, for a field's help."""
    return separator.join(f"{name}: {entry.meaning}" for name, entry in table.items())


def resolve(reference: str) -> Any:
    """Import what a table names as "module:attribute"."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)
