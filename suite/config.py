"""Reads YAML and `key=value` overrides into an Experiment, and explains each refusal in one sentence.

Lists sweep: a field of model, data, batch or recipe with a list of values takes each in turn. The cells
are the product of all such lists and the seeds. A field whose value is a list (crop_area, milestones)
sweeps over a list of lists.
"""

import difflib
import itertools
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from suite.errors import UserError
from suite.experiment import BatchFreeSpec, Experiment, Run

SWEEPING: dict[str, Any] = {s: Run.model_fields[s].annotation for s in ("model", "data", "batch", "recipe")}
FIXED: dict[str, Any] = {s: Run.model_fields[s].annotation for s in ("measure", "system")}
TOP_LEVEL = ("name", *SWEEPING, *FIXED, "seeds")


def load_experiment(path: Path | str, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment. `overrides` are `key=value` with dotted keys, `value` being YAML.

    Raises UserError for any error in the file or the overrides.
    """
    return expand(read_yaml(Path(path), overrides), name=Path(path).stem)


def read_yaml(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the file's content with overrides and interpolations (`${oc.env:HOME}`), not yet validated."""
    try:
        config = OmegaConf.load(path)
        if not OmegaConf.is_dict(config):
            raise UserError(f"{path}: expected a mapping with the keys {', '.join(TOP_LEVEL)}")
        for item in overrides:
            key, separator, text = item.partition("=")
            if not separator or not key.strip():
                raise UserError(f"override {item!r}: expected key=value, such as recipe.epochs=5")
            try:
                OmegaConf.update(config, key.strip(), yaml.safe_load(text), merge=False, force_add=True)
            except (OmegaConfBaseException, TypeError, ValueError):
                raise UserError(
                    f"override {item!r}: {key.strip()} does not lead to a field of {path}"
                ) from None
        content = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; expected a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from None
    return cast(dict[str, Any], content)


def expand(content: dict[str, Any], name: str) -> Experiment:
    """Expand sweeps and seeds into validated runs. Raises UserError."""
    for key in content:
        if key not in TOP_LEVEL:
            raise UserError(f"{key}: unknown key{_nearest(str(key), TOP_LEVEL)}")
    for section, spec in FIXED.items():
        if not isinstance(content.get(section, {}), dict):
            raise UserError(f"{section}: expected a mapping of {', '.join(spec.model_fields)}")
    seeds = content.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or len(set(map(str, seeds))) != len(seeds):
        raise UserError(f"seeds: expected a list of different whole numbers, such as [0, 1], got {seeds!r}")
    fixed = {section: content[section] for section in FIXED if content.get(section) is not None}
    sections = [list(_options(content.get(s) or {}, spec, s)) for s, spec in SWEEPING.items()]
    runs: dict[str, Run] = {}
    for cell in itertools.product(*sections, seeds):
        values = {"experiment": str(content.get("name", name)), **fixed}
        values |= dict(zip((*SWEEPING, "seed"), cell, strict=True))
        try:
            run = Run.model_validate(values)
        except ValidationError as error:
            raise UserError(explain(error)) from None
        # Swept over norm_batch_size, cells of a network without BN are one run.
        if runs.setdefault(run.run_id, run) is not run and not isinstance(run.model.norm, BatchFreeSpec):
            raise UserError(f"two cells of the sweep are the same run: {run.label}")
    return Experiment(name=str(content.get("name", name)), runs=tuple(runs.values()))


def _options(value: Any, annotation: Any, where: str) -> Iterator[Any]:
    """Yield every value of a (nested) sweep."""
    if isinstance(value, list) and not _is_single_list(value, annotation):
        if not value:
            raise UserError(f"{where}: an empty list sweeps nothing; give a value, or remove the key")
        for item in value:
            yield from _options(item, annotation, where)
    elif isinstance(value, dict):
        names = list(value)
        choices = [list(_options(value[n], _field(annotation, str(n)), f"{where}.{n}")) for n in names]
        for combination in itertools.product(*choices):
            yield dict(zip(names, combination, strict=True))
    else:
        yield value


def _is_single_list(value: list[Any], annotation: Any) -> bool:
    """Return whether a list is one value of a field whose values are lists."""
    parts = [annotation, *typing.get_args(annotation)]
    return any(typing.get_origin(p) is tuple for p in parts) and not any(isinstance(v, list) for v in value)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the pydantic models in an annotation (a union, an Annotated)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Annotated, typing.Union, types.UnionType):
        return [m for part in typing.get_args(annotation) for m in _models(part)]
    return []


def _field(annotation: Any, name: str) -> Any:
    for model in _models(annotation):
        if name in model.model_fields:
            return model.model_fields[name].annotation
    return None


def _nearest(word: str, valid: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; valid: {', '.join(valid)}"


def explain(error: ValidationError, root: type[BaseModel] = Run, skip: int = 0) -> str:
    """Return pydantic's first error in one sentence. `root` is `skip` parts down its location."""
    first = error.errors(include_url=False)[0]
    key, fields = _locate(first["loc"][skip:], root)
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key{_nearest(str(first['loc'][-1]), fields)}"
    if first["type"] == "missing":
        return f"{key}: missing"
    if first["type"] == "union_tag_invalid":
        expected = first["ctx"]["expected_tags"].replace("'", "")
        return f"{key}.kind: unknown kind {first['ctx']['tag']!r}; valid: {expected}"
    if first["type"] == "union_tag_not_found":
        return f"{key}: expected a mapping with a key `kind`, got {first['input']!r}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: {message[0].lower()}{message[1:]}, got {first['input']!r}"


def _locate(location: tuple[int | str, ...], root: type[BaseModel]) -> tuple[str, list[str]]:
    """Return the dotted key of an error, without tags of unions, and the valid names at its level."""
    keys, beside, candidates = list[str](), list[str](), [root]
    for part in location:
        tagged = [m for m in candidates if len(candidates) > 1 and part in typing.get_args(_field(m, "kind"))]
        if not tagged:
            keys.append(str(part))
            beside = [name for model in candidates for name in model.model_fields]
        candidates = tagged or [m for c in candidates for m in _models(_field(c, str(part)))]
    return ".".join(keys), beside
