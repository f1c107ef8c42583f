"""Closed choices: tables of named entries, from which the fields, their help and the code follow."""

import importlib
from collections.abc import Iterable
from typing import Any


def listed(names: Iterable[object], word: str = "and") -> str:
    """Join names as a sentence does: "a, b and c"."""
    *most, last = map(str, names)
    return f"{', '.join(most)} {word} {last}" if most else last


def resolve(reference: str) -> Any:
    """Import what a table names as "module:attribute"."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)
