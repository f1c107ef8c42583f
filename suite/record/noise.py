"""Accuracy under noise on the estimates: a run's `noise.json`."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from suite.errors import UserError
from suite.files import read_json, write_atomically
from suite.paths import RunPaths

NOISE_VERSION = 2
# Which BN layers get noise: all that the run has, or those that all norms of the comparison have.
Scope = Literal["all", "common"]


@dataclass(frozen=True)
class NoiseRecord:
    """Top-1 (%) after `step` steps: `top1_percent[i][j]` at `deltas[i]`, in draw j of `seed`.

    `layers`: the names of the BN layers that got noise. `norms`: those that were compared, whose layers may
    be common. `num_images`: the test images, chosen by `seed` too.
    """

    step: int
    seed: int
    num_images: int
    norms: tuple[str, ...]
    layers: tuple[str, ...]
    deltas: tuple[float, ...]
    top1_percent: tuple[tuple[float, ...], ...]

    def mean_at(self, delta: float) -> float:
        """Return the mean over the draws (%); NaN for a magnitude that was not measured."""
        for one, draws in zip(self.deltas, self.top1_percent, strict=True):
            if math.isclose(one, delta, abs_tol=1e-9):
                return math.fsum(draws) / len(draws)
        return math.nan


Noise = Mapping[Scope, NoiseRecord]


def write_noise(paths: RunPaths, noise: Noise) -> None:
    """Replace the run's noise.json. Raises OSError when it cannot be written."""
    scopes = {scope: asdict(record) for scope, record in noise.items()}
    content = {"schema_version": NOISE_VERSION, "scopes": scopes}
    write_atomically(paths.noise, json.dumps(content, indent=1) + "\n")


def read_noise(paths: RunPaths) -> Noise | None:
    """Return the content of noise.json, or None if there is none. Raises UserError for a malformed one."""
    try:
        content = read_json(paths.noise)
    except OSError as error:
        raise UserError(f"{paths.noise}: cannot be read: {error.strerror}") from None
    if content is None and not paths.noise.exists():
        return None
    try:
        if content["schema_version"] == NOISE_VERSION:
            return {scope: _record(content["scopes"][scope]) for scope in get_args(Scope)}
    except (TypeError, ValueError, KeyError, OverflowError):
        pass
    raise UserError(f"{paths.noise}: not a noise.json of this version; remove it to measure again")


def _record(content: Mapping[str, Any]) -> NoiseRecord:
    """Raise ValueError, TypeError or KeyError for anything else."""
    deltas = tuple(float(delta) for delta in content["deltas"])
    rows = tuple(tuple(float(value) for value in row) for row in content["top1_percent"])
    if len(rows) != len(deltas) or len({len(row) for row in rows}) != 1 or not rows[0]:
        raise ValueError("top1_percent is no matrix")
    names = norms, layers = content["norms"], content["layers"]
    if not all(isinstance(one, list) and all(isinstance(name, str) for name in one) for one in names):
        raise TypeError("norms or layers are no names")
    step, seed, num_images = (int(content[name]) for name in ("step", "seed", "num_images"))
    return NoiseRecord(step, seed, num_images, tuple(norms), tuple(layers), deltas, rows)
