"""Accuracy under noise on the estimates: a run's `noise.json`."""

import json
import math
from dataclasses import asdict, dataclass

from suite.errors import UserError
from suite.files import read_json, write_atomically
from suite.paths import RunPaths

NOISE_VERSION = 1


@dataclass(frozen=True)
class NoiseRecord:
    """Top-1 (%) after `step` steps: `top1_percent[i][j]` at `deltas[i]`, in draw j of `seed`."""

    step: int
    seed: int
    num_images: int
    deltas: tuple[float, ...]
    top1_percent: tuple[tuple[float, ...], ...]

    def mean_at(self, delta: float) -> float:
        """Return the mean over the draws (%); NaN for a magnitude that was not measured."""
        for one, draws in zip(self.deltas, self.top1_percent, strict=True):
            if math.isclose(one, delta, abs_tol=1e-9):
                return math.fsum(draws) / len(draws)
        return math.nan


def write_noise(paths: RunPaths, noise: NoiseRecord) -> None:
    """Replace the run's noise.json. Raises OSError when it cannot be written."""
    content = {"schema_version": NOISE_VERSION, **asdict(noise)}
    write_atomically(paths.noise, json.dumps(content, indent=1) + "\n")


def read_noise(paths: RunPaths) -> NoiseRecord | None:
    """Return the content of noise.json, or None if there is none. Raises UserError for a malformed one."""
    try:
        content = read_json(paths.noise)
    except OSError as error:
        raise UserError(f"{paths.noise}: cannot be read: {error.strerror}") from None
    if content is None and not paths.noise.exists():
        return None
    try:
        deltas = tuple(float(delta) for delta in content["deltas"])
        rows = tuple(tuple(float(value) for value in row) for row in content["top1_percent"])
        step, seed, num_images = (int(content[name]) for name in ("step", "seed", "num_images"))
        is_matrix = len(rows) == len(deltas) and len({len(row) for row in rows}) == 1 and rows[0]
        if content["schema_version"] == NOISE_VERSION and is_matrix:
            return NoiseRecord(step, seed, num_images, deltas, rows)
    except (TypeError, ValueError, KeyError, OverflowError):
        pass
    raise UserError(f"{paths.noise}: not a noise.json of this version; remove it to measure again")
