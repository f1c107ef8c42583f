"""The shapes of the files that are read back: one door for records, ledgers and requests.

Another version, a person or a failing disk may have written them. Unknown keys are allowed, because a newer
version may add some; a known key must have a value that its readers can use.
"""

import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

LARGEST = 2**53  # beyond it a float is no longer a count, and no number of seconds
LONGEST_NAME = 255  # bytes, as file systems have it


@dataclass(frozen=True)
class Shape:
    """What a value may be, in words and as a check."""

    words: str
    fits: Callable[[Any], bool]
    is_required: bool = False

    def required(self) -> "Shape":
        """Return the same shape for a key that must be there."""
        return Shape(self.words, self.fits, is_required=True)

    def optional(self) -> "Shape":
        """Return the same shape for a key that may be absent."""
        return Shape(self.words, self.fits)

    def or_null(self) -> "Shape":
        """Return a shape that allows null, too."""
        return Shape(f"{self.words} or null", lambda value: value is None or self.fits(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _is_measured(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and (isinstance(value, float) or abs(value) <= LARGEST)


def _is_file_name(value: Any) -> bool:
    if not isinstance(value, str) or value in ("", ".", "..") or "/" in value or "\0" in value:
        return False
    return len(value.encode()) <= LONGEST_NAME


TEXT = Shape("a text", lambda value: isinstance(value, str))
COUNT = Shape("a whole number from 0", lambda value: type(value) is int and 0 <= value <= LARGEST)
NUMBER = Shape("a number", _is_number)
MEASURED = Shape("a number", _is_measured)  # NaN and infinity are results, too
OBJECT = Shape("an object", lambda value: isinstance(value, dict))
FILE_NAME = Shape("a file's name", _is_file_name)


def matching(words: str, pattern: str) -> Shape:
    """Return the shape of a text that matches a pattern as a whole."""
    return Shape(words, lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None)


def list_of(one: Shape) -> Shape:
    """Return the shape of a list of one or more such values."""

    def fits(value: Any) -> bool:
        return isinstance(value, list) and bool(value) and all(map(one.fits, value))

    return Shape(f"a list, each {one.words}", fits)


def one_of(*choices: str) -> Shape:
    """Return the shape of a closed choice."""
    return Shape(f"one of {', '.join(choices)}", lambda value: isinstance(value, str) and value in choices)


def fault_in(content: Any, shapes: Mapping[str, Shape]) -> str | None:
    """Return what is wrong with the content of a file, and what would be right; None if nothing is."""
    if not isinstance(content, dict):
        return f"expected an object, found {described(content)}"
    for key, shape in shapes.items():
        if key not in content:
            if shape.is_required:
                return f"{key}: missing; expected {shape.words}"
        elif not shape.fits(content[key]):
            return f"{key}: expected {shape.words}, found {described(content[key])}"
    return None


def known(content: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Return the content without keys that this version does not know."""
    return {key: value for key, value in content.items() if key in shapes}


def described(value: Any) -> str:
    """Return a value in at most some forty printable characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    short = reprlib.Repr()
    short.maxstring = short.maxlong = short.maxother = 40
    return short.repr(value).encode("ascii", "backslashreplace").decode()


def is_measurement(line: Mapping[str, Any]) -> bool:
    """Return whether a line of measurements.jsonl, which has all keys, can be used."""
    value = line["value"]
    return (
        isinstance(line["metric"], str)
        and isinstance(line.get("split"), str | None)
        and all(type(at) is int and 0 <= at < limit for at, limit in _moments(line))
        and (all(map(_is_value, value)) if isinstance(value, list) else _is_value(value))
    )


def _moments(line: Mapping[str, Any]) -> tuple[tuple[Any, int], ...]:
    return (line["epoch"], 2**31), (line["step"], LARGEST)


def _is_value(value: Any) -> bool:
    if isinstance(value, str):  # NaN and infinity, which JSON lacks, are written as texts
        return value in ("nan", "inf", "-inf")
    return _is_measured(value)
