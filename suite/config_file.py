"""Reads a YAML file of the user: an experiment, a study or a cluster, with overrides and interpolations.

Every refusal names the file, the override if one is to blame, and the key.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suite import shipped
from suite.errors import UserError
from suite.wording import key_of, shown
from suite.yaml_values import MAX_CHARACTERS, YamlError, parse

# What each kind of file is called, how it is recognised, and how it is passed on.
KINDS = {
    "study": (
        ("space", "experiment"),
        "a study",
        "`shiftbench tune` runs it, and `run`, `submit` and `config show` take it",
    ),
    "cluster": (("scheduler", "partition"), "a cluster", "give it with --cluster"),
    "claims": (("claims", "pilots"), "registered claims", "`reproduce` reads configs/claims.yaml"),
    "experiment": (
        ("model", "data", "batch", "recipe"),
        "an experiment",
        "`shiftbench run` trains it, and `submit` and `config show` take it",
    ),
}
# Texts for a shell: there `${NAME}` is the shell's own; `${oc.env:NAME}` is replaced in them, too.
SHELL_KEYS = ("setup", "python", "jobs_folder")
_FOR_THE_SHELL = re.compile(r"(?<!\\)\$\{(?!oc\.)")
_ENVIRONMENT = re.compile(r"\$\{oc\.env:\s*([A-Za-z_]\w*)\s*\}")


@dataclass(frozen=True)
class ConfigFile:
    """A file's content as it is written, read once, so that it may be a pipe."""

    path: Path
    content: dict[str, Any]

    @property
    def kind(self) -> str | None:
        """Which of `KINDS` its keys are of; None if that cannot be said."""
        kinds = (kind for kind, (keys, *_) in KINDS.items() if not self.content.keys().isdisjoint(keys))
        return next(kinds, None)

    def check_kind(self, wanted: str) -> None:
        """Raise UserError for a file of another kind."""
        if (kind := self.kind) not in (None, wanted):
            keys, name, use = KINDS[str(kind)]
            key = next(key for key in keys if key in self.content)
            wrong = f"this is {name}, but {KINDS[wanted][1]} is expected here"
            raise UserError(f"{self.path}: {key}: {wrong}; {use}")

    def resolved(self, overrides: Sequence[str] = ()) -> dict[str, Any]:
        """Return the content with overrides and interpolations (`${oc.env:HOME}`), not yet validated."""
        content = self.content
        for item in overrides:
            with naming(self.path, f"override {shown(item)}"):
                content = _overridden(content, item)
        with naming(self.path, overrides=overrides):
            return _interpolated(content)


def read_config(path: Path, wanted: str) -> ConfigFile:
    """Read a file with a mapping, as whose kind an empty one is described. Raises UserError.

    `path` may be the name of a shipped config, such as `demo`.
    """
    name, path = KINDS[wanted][1], _shipped_or_own(path)
    try:
        with path.open("rb") as file:
            data = file.read(4 * MAX_CHARACTERS + 1)
        content = parse(data.decode("utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file{shipped.suggestion(path)}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; expected a YAML file") from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not valid YAML: it is not UTF-8") from None
    except YamlError as error:
        where = f"{path}:{error.line}" if error.line else str(path)
        raise UserError(f"{where}: {_with_key(error)}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{shown(str(path))}: not the name of a file") from None
    if not isinstance(content, dict):
        found = "the file is empty" if content is None else f"got {shown(content)}"
        keys = ", ".join(KINDS[wanted][0])
        raise UserError(f"{path}: expected a mapping with the keys of {name} ({keys}, …); {found}")
    return ConfigFile(path, content)


def _shipped_or_own(path: Path) -> Path:
    try:
        return shipped.find(path)
    except (OSError, ValueError):  # no name of a file: too long, or with a zero byte
        return path


@contextmanager
def naming(path: Path, also: str = "", overrides: Sequence[str] = ()) -> Iterator[None]:
    """Put the file before a refusal, and `also` or the override whose key it names."""
    try:
        yield
    except UserError as error:
        also = also or _to_blame(str(error), overrides)
        raise UserError(f"{path}: {also and f'{also}: '}{error}") from None


def overlap(one: str, other: str) -> bool:
    """Whether two dotted keys set the same field, or one a part of the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def override_key(item: str) -> str:
    """Return the key that an override sets."""
    return item.partition("=")[0].strip()


def key_in(message: str) -> str:
    """Return the key with which a refusal begins."""
    return re.split(r":? ", message, maxsplit=1)[0].rstrip(",:")


def _to_blame(message: str, overrides: Sequence[str]) -> str:
    """Return the last override of the key that a message begins with; empty if there is none."""
    key = key_in(message)
    for item in reversed(overrides):
        name = override_key(item)
        # A message about a section as a whole names the field later on.
        if overlap(key, name) and (len(key) >= len(name) or name.rpartition(".")[2] in message):
            return f"override {shown(item)}"
    return ""


def _with_key(error: YamlError) -> str:
    return f"{key_of(error.keys)}: {error}" if error.keys else str(error)


def _overridden(content: dict[str, Any], item: str) -> dict[str, Any]:
    """Return the content with a field set by `key=value`. Raises UserError without the override's name."""
    key, separator, text = item.partition("=")
    keys = re.sub(r"\[(\d+)\]", r".\1", key.strip()).split(".")
    if not separator or not all(keys) or not key.isprintable():
        raise UserError("expected key=value, such as recipe.epochs=5")
    try:
        value = parse(text)
    except YamlError as error:
        raise UserError(f"{key_of([*keys, *error.keys])}: {error}") from None
    return dict(_with_value(content, keys, value, key.strip()))


def _with_value(content: Any, keys: Sequence[str], value: Any, whole: str) -> Any:
    """Return a copy of a mapping, or of a list, with a nested value replaced."""
    if not keys:
        return value
    first, *rest = keys
    if isinstance(content, list) and first.isdecimal() and int(first) < len(content):
        copy = list(content)
        copy[int(first)] = _with_value(copy[int(first)], rest, value, whole)
        return copy
    if content is not None and not isinstance(content, dict):
        found = f"{shown(content)} is not a mapping; set the key above it"
        raise UserError(f"{key_of([whole])} does not lead to a field: {found}")
    inner = content or {}
    return {**inner, first: _with_value(inner.get(first), rest, value, whole)}


def _interpolated(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content with OmegaConf's interpolations resolved. A refusal begins with the key."""
    leaves = dict(_leaves(content, ()))
    for keys, text in leaves.items():
        if text == "???":
            raise UserError(f"{key_of(keys)}: missing; replace the placeholder ??? with a value")
    found = {keys: text for keys, text in leaves.items() if "${" in text}
    if not found:
        return content
    from omegaconf import OmegaConf

    for keys, text in found.items():
        if keys[0] in SHELL_KEYS:
            content = _replaced(content, keys, _FOR_THE_SHELL.sub(r"\\${", text))
    for keys in found:
        with _explaining(keys, found[keys]):
            OmegaConf.create([_at(content, keys)])  # is its grammar right?
    config = OmegaConf.create(content)
    for keys, text in found.items():
        with _explaining(keys, text):
            value = _at(config, keys)
            plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            content = _replaced(content, keys, plain)
    return content


@contextmanager
def _explaining(keys: Sequence[str], text: str) -> Iterator[None]:
    """Raise UserError for an interpolation that leads nowhere. Whatever a resolver raises is the user's."""
    try:
        yield
    except Exception:
        unset = [name for name in _ENVIRONMENT.findall(text) if name not in os.environ]
        if unset:
            name = unset[0]
            why = (
                f"the environment variable {name} is not set; set {name} or {key_of(keys)}, such as by "
                f"`export {name}=…`"
            )
        else:
            why = (
                f"{shown(text)} cannot be resolved; ${{oc.env:NAME}} is an environment variable, "
                "${model.arch} another key, and \\${NAME} the text ${NAME} itself"
            )
        raise UserError(f"{key_of(keys)}: {why}") from None


def _leaves(value: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield every text of a nested value, with the keys that lead to it."""
    if isinstance(value, str):
        yield keys, value
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(item, (*keys, str(key)))


def _at(value: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        value = value[int(key) if hasattr(value, "append") else key]
    return value


def _replaced(value: Any, keys: Sequence[str], new: Any) -> Any:
    """Return a copy with the value at these keys, which exist, replaced."""
    if not keys:
        return new
    copy = value.copy()
    place: Any = int(keys[0]) if isinstance(copy, list) else keys[0]
    copy[place] = _replaced(copy[place], keys[1:], new)
    return copy
