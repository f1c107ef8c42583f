"""Expands YAML and `key=value` overrides into an Experiment, and refuses what cannot be one in a sentence.

Lists sweep: a field of model, data, batch or recipe with a list of values takes each in turn. The cells
are the product of all such lists and the seeds. A field whose value is a list (crop_area, milestones)
sweeps over a list of lists.
"""

import itertools
import math
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from suite.config_file import ConfigFile, naming, read_config
from suite.errors import UserError
from suite.experiment import BatchFreeSpec, Experiment, Run
from suite.wording import expected, explain, in_a_section, key_of, models_of, nearest, shown

SWEEPING: dict[str, Any] = {
    s: Run.model_fields[s].annotation for s in ("task", "model", "data", "batch", "recipe")
}
FIXED: dict[str, Any] = {s: Run.model_fields[s].annotation for s in ("measure", "system")}
TOP_LEVEL = ("name", *SWEEPING, *FIXED, "seeds")
MAX_RUNS = 100_000


def load_experiment(path: Path | str, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment. `overrides` are `key=value` with dotted keys, `value` being YAML.

    Raises UserError for any error in the file or the overrides.
    """
    return experiment_of(read_config(Path(path), "experiment"), overrides)


def experiment_of(file: ConfigFile, overrides: Sequence[str] = ()) -> Experiment:
    """Return the experiment that a file describes. Raises UserError that names the file."""
    file.check_kind("experiment")
    content = file.resolved(overrides)
    with naming(file.path, overrides=overrides):
        return expand(content, name=file.path.stem)


def expand(content: dict[str, Any], name: str) -> Experiment:
    """Expand sweeps and seeds into validated runs. Raises UserError that begins with a key."""
    for key in content:
        if key not in TOP_LEVEL:
            inside = in_a_section(str(key), Run)
            hint = f"; did you mean {inside!r}?" if inside else nearest(str(key), TOP_LEVEL)
            raise UserError(f"{key_of([key])}: unknown key{hint}")
    title = content.get("name", name)
    if not isinstance(title, str | int) or isinstance(title, bool) or title == "":
        raise UserError(f"name: expected text, got {shown(title)}")
    for section, spec in FIXED.items():
        if not isinstance(content.get(section) or {}, dict) or content.get(section) in (False, 0, ""):
            raise UserError(f"{section}: expected {expected(spec)}, got {shown(content[section])}")
    seeds = content.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or len(set(map(str, seeds))) != len(seeds):
        raise UserError(
            f"seeds: expected a list of different whole numbers, such as [0, 1], got {shown(seeds)}"
        )
    fixed = {section: content[section] for section in FIXED if content.get(section) is not None}
    swept: dict[str, int] = {"seeds": len(seeds)}
    given = {s: content[s] for s in SWEEPING if content.get(s) is not None}
    sections = {s: given.get(s, {}) for s in SWEEPING if s in given or Run.model_fields[s].is_required()}
    for section, value in sections.items():
        _count(value, SWEEPING[section], section, swept)
    if (number := math.prod(swept.values())) > MAX_RUNS:
        keys = ", ".join(key for key, length in swept.items() if length > 1)
        raise UserError(f"{keys}: {number:,} combinations, more than {MAX_RUNS:,} runs; take fewer values")
    options = [list(_options(value, SWEEPING[s])) for s, value in sections.items()]
    runs: dict[str, Run] = {}
    for cell in itertools.product(*options, seeds):
        values = {"experiment": str(title), **fixed}
        values |= dict(zip((*sections, "seed"), cell, strict=True))
        try:
            run = Run.model_validate(values)
        except ValidationError as error:
            raise UserError(explain(error, Run).replace("seed:", "seeds:", 1)) from None
        # Swept over norm_batch_size, cells of a network without BN are one run.
        if runs.setdefault(run.run_id, run) is not run and not isinstance(run.model.norm, BatchFreeSpec):
            keys = ", ".join(key for key, length in swept.items() if length > 1)
            raise UserError(f"{keys}: two cells of the sweep are the same run: {run.label}")
    return Experiment(name=str(title), runs=tuple(runs.values()))


def _count(value: Any, annotation: Any, where: str, swept: dict[str, int]) -> None:
    """Enter how many values each list of a sweep has, at most. Raises UserError for an empty one."""
    if isinstance(value, list) and not _is_single_list(value, annotation):
        if not value:
            raise UserError(f"{where}: an empty list sweeps nothing; give a value, or remove the key")
        inner: dict[str, int] = {}
        for item in value:
            _count(item, annotation, where, inner)
        swept[where] = swept.get(where, 0) + len(value) * math.prod(inner.values())
    elif isinstance(value, dict):
        for name, item in value.items():
            _count(item, _field(annotation, name), f"{where}.{key_of([name])}", swept)


def _options(value: Any, annotation: Any) -> list[Any]:
    """Return every value of a (nested) sweep."""
    if isinstance(value, list) and not _is_single_list(value, annotation):
        return [option for item in value for option in _options(item, annotation)]
    if isinstance(value, dict):
        choices = [_options(item, _field(annotation, name)) for name, item in value.items()]
        return [dict(zip(value, combination, strict=True)) for combination in itertools.product(*choices)]
    return [value]


def _is_single_list(value: list[Any], annotation: Any) -> bool:
    """Return whether a list is one value of a field whose values are lists."""
    parts = [annotation, *typing.get_args(annotation)]
    return any(typing.get_origin(p) is tuple for p in parts) and not any(isinstance(v, list) for v in value)


def _field(annotation: Any, name: str) -> Any:
    fields = (model.model_fields.get(name) for model in models_of(annotation))
    return next((field.annotation for field in fields if field is not None), None)
