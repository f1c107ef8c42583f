"""Reads YAML as plain values, by the core schema of YAML 1.2 and within bounds.

PyYAML follows YAML 1.1, which reads `1:30` as 90, `010` as 8 and `off` as false. Here the first and the last
are text, which a field for numbers refuses, and a leading zero is refused. So are infinities, NaN, repeated
keys and tags: no field has a use for them.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import yaml

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 32
MAX_VALUES = 100_000  # what aliases repeat is counted each time
MAX_INTEGER = 2**63 - 1
_TAG = "tag:yaml.org,2002:"
_FORMS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "merge": r"<<",
}


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own, replaced as a whole


for _name, _form in _FORMS.items():
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_form})\Z"), None)


class YamlError(ValueError):
    """A fault in YAML text: what it is, the keys that lead to it, and its line, counted from 1, if known."""

    def __init__(self, message: str, keys: Sequence[str] = (), line: int | None = None) -> None:
        super().__init__(message)
        self.keys = tuple(keys)
        self.line = line


def parse(text: str) -> Any:
    """Return the value of a single YAML document; None for an empty one. Raises YamlError."""
    if len(text) > MAX_CHARACTERS:
        raise YamlError(f"longer than {MAX_CHARACTERS:,} characters")
    try:
        _check_depth(text)  # composing recurs, parsing does not
        node = yaml.compose(text, Loader=_Loader)
    except yaml.reader.ReaderError as error:
        raise YamlError("not valid YAML: it has a control character or is not UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise YamlError(f"not valid YAML: {problem}", (), mark.line + 1 if mark else None) from None
    except UnicodeEncodeError:
        raise YamlError("not valid YAML: it is not UTF-8") from None
    return None if node is None else _Values().of(node, ())


def _check_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            line = event.start_mark.line + 1 if event.start_mark else None
            raise YamlError(f"nested deeper than {MAX_DEPTH} levels", (), line)


class _Values:
    """Turns nodes into values."""

    def __init__(self) -> None:
        self.count = 0
        self.above: list[yaml.Node] = []

    def of(self, node: yaml.Node, keys: tuple[str, ...]) -> Any:
        self.count += 1
        if self.count > MAX_VALUES:
            raise _fault(f"more than {MAX_VALUES:,} values", keys, node)
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node, keys)
        if any(node is one for one in self.above):
            raise _fault("an alias refers to a value that contains it", keys, node)
        self.above.append(node)
        value = self._mapping(node, keys) if isinstance(node, yaml.MappingNode) else self._list(node, keys)
        self.above.pop()
        return value

    def _list(self, node: yaml.Node, keys: tuple[str, ...]) -> list[Any]:
        if node.tag != _TAG + "seq":
            raise _fault(f"the tag {_short(node.tag)} has no meaning here; remove it", keys, node)
        return [self.of(item, (*keys, str(number))) for number, item in enumerate(node.value)]

    def _mapping(self, node: yaml.Node, keys: tuple[str, ...]) -> dict[str, Any]:
        if node.tag != _TAG + "map":
            raise _fault(f"the tag {_short(node.tag)} has no meaning here; remove it", keys, node)
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _fault("a key must be a word, and not a list or a mapping", keys, key)
            if key.tag == _TAG + "merge":
                for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    content = self.of(part, keys)
                    if not isinstance(content, dict):
                        raise _fault("<< takes a mapping, or a list of them", keys, part)
                    merged = content | merged  # the first of several has priority
                continue
            name = str(key.value)
            here = (*keys, name)
            _check_text(name, here, key)
            if name in own:
                raise _fault("given twice; keep one of them", here, key)
            own[name] = self.of(value, here)
        return {**{name: value for name, value in merged.items() if name not in own}, **own}


def _scalar(node: yaml.ScalarNode, keys: tuple[str, ...]) -> Any:
    kind, text = node.tag.removeprefix(_TAG), str(node.value)
    if kind == "str" or (kind == "merge" and not node.style):
        _check_text(text, keys, node)
        return text
    if kind not in _FORMS:
        raise _fault(f"the tag {_short(node.tag)} has no meaning here; remove it", keys, node)
    if not re.fullmatch(_FORMS[kind], text):
        raise _fault(f"{_short(text)!r} is no value of the tag !!{kind}; remove the tag", keys, node)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    return _number(text, kind, keys, node)


def _number(text: str, kind: str, keys: tuple[str, ...], node: yaml.Node) -> int | float:
    digits = text.lstrip("+-")
    if re.fullmatch(r"0[0-9]+", digits):
        plain, quoted = _short(digits.lstrip("0") or "0"), f"{_short(text)!r} in quotes if it is text"
        octal = f"{_short(text)} has a leading zero, which may mean an octal number"
        raise _fault(f"{octal}; write {plain}, or {quoted}", keys, node)
    if kind == "float":
        number = math.nan if "n" in text.lower() else float(text)
        if not math.isfinite(number):
            raise _fault(f"expected a finite number, got {_short(text)}", keys, node)
        return number
    whole = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10)) if len(text) <= 20 else MAX_INTEGER + 1
    if abs(whole) > MAX_INTEGER:
        raise _fault(f"{_short(text)} is too large a number", keys, node)
    return whole


def _check_text(text: str, keys: tuple[str, ...], node: yaml.Node) -> None:
    if bad := re.search(r"[^\n\t -~\u00a0-\ud7ff\ue000-\U0010ffff]", text):
        raise _fault(f"has the control character U+{ord(bad[0]):04X}; remove it", keys, node)


def _fault(message: str, keys: Sequence[str], node: yaml.Node) -> YamlError:
    return YamlError(message, keys, node.start_mark.line + 1)


def _short(text: str) -> str:
    text = text.removeprefix(_TAG)
    return text if len(text) <= 40 else f"{text[:40]}…"
