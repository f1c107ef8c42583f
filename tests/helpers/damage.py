"""Damages the files of a run, or the entries of a ledger, as other versions, people and disks do."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

VALUES: list[Any] = [
    *(None, True, -1, 7, 2**40, 2**63, 2**70, 1e308, -1e308, "", "asleep", "nan", [], [1], {}, {"a": 1}),
    *("é\x00\x1b[31m\u202e", "x" * 1_000_000, [[[]]], [None], ["a", 2], float("nan"), float("inf"), 0.5),
]
TEXTS = [
    *(b"", b"\0" * 64, b"[1, 2]", b'"text"', b"12", b"null", b"{", b"\xff\xfe\x00", b'{"state": "asleep"}'),
    *(b'{"a": "\xff"}', b"[" * 100_000, b"1" * 5000, b'{"state": "\\ud800"}', b"1e999"),
]


def damage(path: Path, dice: random.Random) -> str:
    """Damage one file, and return in a few words how."""
    ways: list[Callable[[Path, random.Random], str]] = [_replace, _cut, _value, _value, _value, _drop, _extra]
    if path.name.endswith(".jsonl"):
        ways = [_replace, _cut, _line]
    return f"{path.name}: {dice.choice(ways)(path, dice)}"


def _replace(path: Path, dice: random.Random) -> str:
    text = dice.choice(TEXTS)
    path.write_bytes(text)
    return f"is {text[:20]!r}"


def _cut(path: Path, dice: random.Random) -> str:
    data = path.read_bytes()
    at = dice.randrange(len(data) + 1)
    path.write_bytes(data[:at])
    return f"cut at {at}"


def _places(content: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = content.items() if isinstance(content, dict) else enumerate(content)
    found = []
    for key, value in items:
        found.append((*above, key))
        if isinstance(value, dict | list):
            found += _places(value, (*above, key))
    return found


def _edit(path: Path, dice: random.Random, change: Callable[[Any, Any], None]) -> str:
    try:
        content = json.loads(path.read_bytes())
        places = _places(content)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return "damaged already"
    if not places:
        return "empty already"
    *above, last = dice.choice(places)
    inside = content
    for key in above:
        inside = inside[key]
    change(inside, last)
    path.write_text(json.dumps(content))
    return ".".join(map(str, [*above, last]))


def _value(path: Path, dice: random.Random) -> str:
    value = dice.choice(VALUES)
    return f"{_edit(path, dice, lambda inside, key: inside.__setitem__(key, value))} = {str(value)[:20]!r}"


def _drop(path: Path, dice: random.Random) -> str:
    return f"{_edit(path, dice, lambda inside, key: inside.__delitem__(key))} removed"


def _extra(path: Path, dice: random.Random) -> str:
    def add(inside: Any, key: Any) -> None:
        if isinstance(inside, dict):
            inside["of a newer version"] = dice.choice(VALUES)
        else:
            inside.append(dice.choice(VALUES))

    return f"an extra beside {_edit(path, dice, add)}"


def _line(path: Path, dice: random.Random) -> str:
    lines = path.read_bytes().splitlines()
    number = dice.randrange(len(lines))
    try:
        line = json.loads(lines[number])
        key = dice.choice(sorted(line))
        line[key] = value = dice.choice(VALUES)
        lines[number] = json.dumps(line).encode()
    except (ValueError, TypeError, RecursionError):
        return "damaged already"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return f"line {number}: {key} = {str(value)[:20]!r}"


def rename_badly(folder: Path, dice: random.Random) -> str:
    """Give a run folder a name that is not UTF-8."""
    name = os.fsencode(folder.name)[: dice.randrange(4, 20)] + b"\xff\xe9"
    folder.rename(folder.with_name(os.fsdecode(name)))
    return "a name that is not UTF-8"
