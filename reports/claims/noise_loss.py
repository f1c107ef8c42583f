"""Claim D: a network with batch-free norms suffers less from wrong estimates.

The *loss* of a run is the share of its top-1 above chance that noise on the estimates costs, in percent,

    1 − (top-1(δ) − chance) / (top-1(0) − chance),      chance = 100 % / classes

with top-1 a mean over the draws; its mean over the registered magnitudes. Chance is subtracted: of two
networks that guess, the more accurate one would seem to lose more. XBN has fewer BN layers than BN, so that
noise on all of them is less noise. Therefore the loss is also that of noise on the layers that all norms
have, with the same draws in them.

The paper gives no formula for its noise; ours is in suite.shift.perturb.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from reports.claims.check import Measured, PaperNumber, paired
from reports.frames import Frames
from reports.paper.published import load_paper
from suite.errors import UserError
from suite.experiment import NUM_CLASSES
from suite.paths import RunPaths
from suite.record import Noise, NoiseRecord, Scope, read_noise

SCOPES: dict[Scope, str] = {"all": "on all BN layers", "common": "on the BN layers that all have"}
# The paper's series of a norm, by family, position and batch-free norm.
_SERIES = {
    ("bn", "", ""): "noise/bn",
    ("xbn", "p2", "gn"): "noise/xbn-gn",
    ("xbn", "p2", "in"): "noise/xbn-in",
}


def relative_top1(frames: Frames) -> pd.DataFrame:
    """Completed runs by scope and magnitude: seed, norm, series, scope, delta, value.

    `value`: top-1 in % of that without noise. `series`: the id of the paper's curve of such a norm, or empty.
    """
    rows = [
        (run.seed, run.norm, _series(run), scope, delta, 100 * _relative(noise[scope], delta, 0.0))
        for run, _, noise in _perturbed(frames)
        if noise is not None
        for scope in SCOPES
        for delta in noise[scope].deltas
    ]
    return pd.DataFrame(rows, columns=["seed", "norm", "series", "scope", "delta", "value"])


def _series(run: Any) -> str:
    return _SERIES.get((run.norm_family, run.position, run.bfn), "")


def bn_less_xbn(frames: Frames, scope: Scope, magnitudes: Sequence[float]) -> Iterator[Measured]:
    """BN's loss less XBN-GN's."""
    yield from _difference("noise/bn", "noise/xbn-gn", frames, scope, magnitudes)


def gn_less_in(frames: Frames, scope: Scope, magnitudes: Sequence[float]) -> Iterator[Measured]:
    """XBN-GN's loss less XBN-IN's."""
    yield from _difference("noise/xbn-gn", "noise/xbn-in", frames, scope, magnitudes)


def _difference(
    more: str, less: str, frames: Frames, scope: Scope, magnitudes: Sequence[float]
) -> Iterator[Measured]:
    losses: dict[str, dict[int, float]] = {}
    for run, chance, noise in _perturbed(frames):
        record = None if noise is None else noise[scope]
        loss = 100 * (1 - fmean(_relative(record, delta, chance) for delta in magnitudes))
        losses.setdefault(_series(run), {})[int(run.seed)] = loss
    values = paired(losses.get(more, {}), losses.get(less, {}))
    subset = {"where": SCOPES[scope], "deltas": " and ".join(f"{delta:g}" for delta in magnitudes)}
    yield Measured(values, subset, _paper(more, less, magnitudes) if scope == "all" else None)


def _perturbed(frames: Frames) -> Iterator[tuple[Any, float, Noise | None]]:
    """Each completed run as a named tuple, top-1 (%) of guessing, and its noise."""
    for run in frames.completed.itertuples():
        try:
            noise = read_noise(RunPaths(Path(str(run.folder))))
        except UserError:  # then the rule lacks this seed's value, and says so
            noise = None
        yield run, 100 / NUM_CLASSES[str(run.data)], noise


def _relative(noise: NoiseRecord | None, delta: float, chance: float) -> float:
    """Top-1 with noise over that without, less chance each; NaN where one of them is not known."""
    if noise is None or not noise.mean_at(0) > chance:
        return math.nan
    return (noise.mean_at(delta) - chance) / (noise.mean_at(0) - chance)


def _paper(more: str, less: str, magnitudes: Sequence[float]) -> PaperNumber:
    (a, its), (b, others) = _papers_loss(more, magnitudes), _papers_loss(less, magnitudes)
    return PaperNumber(a - b, its + others, load_paper()[more].label, "ImageNet, ResNet-50 (inferred)")


def _papers_loss(series_id: str, magnitudes: Sequence[float]) -> tuple[float, float]:
    """The paper's loss (%), and by how much it is off when all of its points are read wrongly."""
    series = load_paper()[series_id]
    chance = 100 / NUM_CLASSES[series.data]
    clean = series.values[0] - chance
    noisy = fmean(series.values[delta] for delta in magnitudes) - chance
    least = (noisy - series.tolerance) / (clean + series.tolerance)
    return 100 * (1 - noisy / clean), 100 * (noisy / clean - least)
