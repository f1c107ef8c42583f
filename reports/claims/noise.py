"""Claim D: a network with batch-free norms minds wrong estimates less.

The *loss* of a run is the share of what it knows that it loses to noise on the estimates, in percent,

    1 − (top-1(δ) − chance) / (top-1(0) − chance),      chance = 100 % / classes

with top-1 a mean over the draws; its mean over MAGNITUDES, since networks of other sizes lose most at other
δ. Chance is taken off, lest of two networks that guess the more accurate one seem to lose more. Paired by
seed:

- BN's loss less XBN-GN's is above 0;
- XBN-GN's loss less XBN-IN's is above 0.

The paper gives no formula for its noise; ours is in suite.shift.perturb.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pandas as pd

from reports.claims.check import Check, PaperNumber, paired
from reports.frames import Frames
from reports.paper.numbers import load_paper
from suite.errors import UserError
from suite.experiment import NUM_CLASSES
from suite.paths import RunPaths
from suite.record import NoiseRecord, read_noise

MAGNITUDES = (0.1, 0.3, 0.5)
# How a norm's label begins, and the paper's series of it.
FAMILIES = {"BN": "noise/bn", "XBN-P2-GN": "noise/xbn-gn", "XBN-P2-IN": "noise/xbn-in"}


def family(norm: str) -> str | None:
    """Which of FAMILIES a label belongs to, if any."""
    return next((name for name in FAMILIES if norm == name or (name != "BN" and norm.startswith(name))), None)


def relative_top1(frames: Frames) -> pd.DataFrame:
    """Of completed runs, by magnitude: seed, norm, delta, value (top-1 in % of that without noise)."""
    rows = [
        (seed, norm, delta, 100 * _relative(noise, delta, 0.0))
        for seed, norm, _, noise in _perturbed(frames)
        if noise is not None
        for delta in noise.deltas
    ]
    return pd.DataFrame(rows, columns=["seed", "norm", "delta", "value"])


def checks(frames: Frames) -> Iterator[Check]:
    losses: dict[str, dict[int, float]] = {name: {} for name in FAMILIES}
    for seed, norm, chance, noise in _perturbed(frames):
        if (name := family(norm)) is not None:
            losses[name][seed] = 100 * (1 - fmean(_relative(noise, delta, chance) for delta in MAGNITUDES))
    for more, less in (("BN", "XBN-P2-GN"), ("XBN-P2-GN", "XBN-P2-IN")):
        told = f"top-1 above chance lost to noise of δ = {_listed()}, {_short(more)} less {_short(less)}"
        yield Check(told, "points", paired(losses[more], losses[less]), "above", 0, 1, _paper(more, less))


def _listed() -> str:
    return f"{', '.join(f'{delta:g}' for delta in MAGNITUDES[:-1])} and {MAGNITUDES[-1]:g}"


def _short(name: str) -> str:
    return name.replace("-P2", "")


def _perturbed(frames: Frames) -> Iterator[tuple[int, str, float, NoiseRecord | None]]:
    """Seed, norm, top-1 (%) of guessing, and noise of each completed run."""
    done = frames.completed
    for seed, norm, data, folder in zip(done.seed, done.norm, done.data, done.folder, strict=True):
        try:
            noise = read_noise(RunPaths(Path(folder)))
        except UserError:  # as good as none: the rule lacks this seed's value then, and says so
            noise = None
        yield int(seed), str(norm), 100 / NUM_CLASSES[data], noise


def _relative(noise: NoiseRecord | None, delta: float, chance: float) -> float:
    """Top-1 with noise over that without, less chance each; NaN where one of them is not known."""
    if noise is None or not noise.mean_at(0) > chance:
        return math.nan
    return (noise.mean_at(delta) - chance) / (noise.mean_at(0) - chance)


def _paper(more: str, less: str) -> PaperNumber:
    (a, its), (b, others) = _papers_loss(more), _papers_loss(less)
    label = load_paper()[FAMILIES[more]].label
    return PaperNumber(a - b, its + others, label, "ImageNet, ResNet-50 (inferred)")


def _papers_loss(name: str) -> tuple[float, float]:
    """The paper's loss (%), and by how much it is off when all of its points are read wrongly."""
    series = load_paper()[FAMILIES[name]]
    chance = 100 / NUM_CLASSES[series.data]
    clean = series.values[0] - chance
    noisy = fmean(series.values[delta] for delta in MAGNITUDES) - chance
    least = (noisy - series.tolerance) / (clean + series.tolerance)
    return 100 * (1 - noisy / clean), 100 * (noisy / clean - least)
