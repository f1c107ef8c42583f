"""Says in plain words which values a field takes, and why pydantic refused one."""

import difflib
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

MAX_SHOWN = 60  # characters of a value in a message
_BOUNDS = {"ge": " ≥ {:g}", "gt": " > {:g}", "le": " ≤ {:g}", "lt": " < {:g}", "min_length": ", not empty"}
_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def shown(value: Any, limit: int = MAX_SHOWN) -> str:
    """Return a value as YAML has it, on one line and not longer than a message can carry."""
    if isinstance(value, str) and len(value) > limit:
        value = f"{value[: limit - 1]}…"
    text = repr(value) if isinstance(value, str) else _flow(value)
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if isinstance(value, str) or len(text) <= limit else f"{text[: limit - 1]}…"


def key_of(parts: Iterable[object]) -> str:
    """Join the parts of a key's path with dots; a part that would not print is quoted."""
    texts = [str(part) for part in parts]
    are_plain = [text.isprintable() and 0 < len(text) <= MAX_SHOWN for text in texts]
    return ".".join(
        text if is_plain else shown(text) for text, is_plain in zip(texts, are_plain, strict=True)
    )


def nearest(word: str, valid: Sequence[str]) -> str:
    """Return the end of a sentence about a word that is not valid."""
    near = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; valid: {', '.join(valid)}"


def in_a_section(word: str, root: type[BaseModel]) -> str | None:
    """Return the key of a field of this name in one of the sections of `root`, such as model.norm."""
    for section, field in root.model_fields.items():
        if any(word in model.model_fields for model in models_of(field.annotation)):
            return f"{section}.{word}"
    return None


def expected(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Return which values a type takes, such as "a whole number ≥ 1, or null"."""
    one, bounds, is_optional = _unwrapped(annotation)
    bounds = [*bounds, *metadata]
    limits = [(text, getattr(bound, name, None)) for bound in bounds for name, text in _BOUNDS.items()]
    within = " and".join(text.format(limit) for text, limit in limits if limit is not None)
    return f"{_described(one)}{within}{', or null' if is_optional else ''}"


def models_of(annotation: Any) -> list[type[BaseModel]]:
    """Return the pydantic models in an annotation (a union, an Annotated)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Annotated, typing.Union, types.UnionType):
        return [model for part in typing.get_args(annotation) for model in models_of(part)]
    return []


def kinds_of(models: Iterable[type[BaseModel]]) -> list[str]:
    """Return the names by which a key `kind` chooses among models."""
    fields = [model.model_fields["kind"] for model in models if "kind" in model.model_fields]
    return [str(name) for field in fields for name in typing.get_args(field.annotation)]


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """Return pydantic's first error in a value of `root`, in one sentence that begins with the key."""
    first = error.errors(include_url=False)[0]
    keys, beside, annotation, metadata, field = _locate(first["loc"], root)
    key, kind, found = key_of(keys), first["type"], first["input"]
    if kind == "extra_forbidden":
        return f"{key}: unknown key{nearest(str(first['loc'][-1]), beside)}"
    if kind == "missing":
        return f"{key}: missing; expected {expected(annotation, metadata)}"
    if kind == "union_tag_invalid":
        unknown, valid = shown(first["ctx"]["tag"]), ", ".join(kinds_of(models_of(annotation)))
        return f"{key}.kind: unknown kind {unknown}; valid: {valid}"
    if kind == "union_tag_not_found" and isinstance(found, dict):
        return f"{key}.kind: missing; expected one of {', '.join(kinds_of(models_of(annotation)))}"
    if kind == "value_error":
        return _own_words(key, first["msg"].removeprefix("Value error, "), models_of(annotation))
    if keys and first["loc"][-1] == "[key]":
        return f"{key}: expected text as a key, got {shown(found)}"
    meaning = (
        f" ({field.description})" if kind == "string_pattern_mismatch" and field and field.description else ""
    )
    return f"{key}: expected {expected(annotation, metadata)}{meaning}, got {shown(found)}".removeprefix(": ")


def _own_words(key: str, message: str, models: Sequence[type[BaseModel]]) -> str:
    """Return a validator's own sentence; one that begins with a field's name gets the path before it."""
    name = message.partition(":")[0].partition(".")[0]
    if key and any(name in model.model_fields for model in models) and ":" in message:
        return f"{key}.{message}"
    return f"{key}: {message}" if key else message


def _unwrapped(annotation: Any) -> tuple[Any, list[Any], bool]:
    """Return a type without Annotated and None, what Annotated says of it, and whether it may be None."""
    bounds, is_optional = list[Any](), False
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            annotation, *more = typing.get_args(annotation)
            bounds += more
        elif type(None) in typing.get_args(annotation):
            rest = tuple(one for one in typing.get_args(annotation) if one is not type(None))
            annotation, is_optional = typing.Union[rest], True  # noqa: UP007 - of a tuple
        else:
            return annotation, bounds, is_optional


def _described(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if models := models_of(annotation):
        if len(models) == 1:
            return f"a mapping with the keys {', '.join(models[0].model_fields)}"
        return f"a mapping with a key `kind`, one of {', '.join(kinds_of(models))}, or that name alone"
    if origin is typing.Literal:
        *most, last = map(str, arguments)
        return f"{', '.join(most)} or {last}" if most else last
    if origin in (typing.Union, types.UnionType):
        return ", or ".join(map(_described, arguments))
    if origin is tuple and len(arguments) == 2 and arguments[1] is ...:
        return f"a list, each item {expected(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)} items, each {expected(arguments[0])}"
    if origin is dict:
        return f"a mapping, each value {expected(arguments[1])}"
    return _PLAIN.get(annotation, "a value")


def _locate(
    location: Sequence[int | str], root: type[BaseModel]
) -> tuple[list[object], list[str], Any, list[Any], FieldInfo | None]:
    """Return an error's keys, the valid names beside the last one, and the type, bounds and field there."""
    keys, beside = list[object](), list[str]()
    annotation: Any = root
    metadata, field = list[Any](), None
    for part in location:
        inner, _, _ = _unwrapped(annotation)
        models, arguments = models_of(annotation), typing.get_args(inner)
        if len(models) > 1 and (tagged := [m for m in models if part in kinds_of([m])]):
            annotation = tagged[0]
        elif models:
            keys.append(part)
            beside = [name for model in models for name in model.model_fields]
            field = next((m.model_fields[part] for m in models if part in m.model_fields), None)
            annotation, metadata = (field.annotation, field.metadata) if field else (None, [])
        elif typing.get_origin(inner) is dict and part != "[key]":
            keys.append(part)
            annotation, metadata = arguments[1], []
        elif typing.get_origin(inner) is tuple and isinstance(part, int):
            keys.append(part)
            annotation, metadata = arguments[0 if arguments[-1] is ... else min(part, len(arguments) - 1)], []
    return keys, beside, annotation, metadata, field


def _flow(value: Any) -> str:
    """Return a value in YAML's flow style."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_flow(item)}' for name, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, BaseModel):
        return _flow(value.model_dump())
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
