"""Claims B and C: the shift accumulates over depth, and batch-free norms between the layers block it.

All of this is of the scaled ESM σ at the end of training, over the layers behind the first. The first one's
input is the image: its shift is in units of the pixels, and it inherits nothing. A run's *slope* is that of
the least-squares line over the layers' places in the network.
"""

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pandas as pd

from reports.claims.check import Measured, PaperNumber, paired
from reports.frames import Frames
from reports.paper.published import Series, load_paper
from reports.stats import slope, slopes
from suite.metrics import SHIFT_SIGMA

BySeed = dict[int, float]


def profiles(frames: Frames, metric: str = SHIFT_SIGMA) -> pd.DataFrame:
    """A metric of completed runs at common layers: run, seed, norm, norm_family, images, position, value."""
    runs = frames.completed[["run", "seed", "norm", "norm_family", "global_batch_size"]]
    layers = frames.layers[(frames.layers.metric == metric) & frames.layers.common]
    found = layers[["run", "position", "value"]].merge(runs, on="run")
    return found.rename(columns={"global_batch_size": "images"})


def _by_size(frames: Frames, family: str, of_run: pd.Series) -> dict[int, BySeed]:
    """By training set size, seed → number of this family's runs; NaN for a run without one."""
    done = frames.completed[frames.completed.norm_family == family].sort_values(
        "global_batch_size", kind="stable"
    )
    found: dict[int, BySeed] = {}
    for run, size, seed in zip(done.run, done.global_batch_size, done.seed, strict=True):
        found.setdefault(int(size), {})[int(seed)] = float(of_run.get(run, math.nan))
    return found


def _behind_first(frames: Frames, metric: str = SHIFT_SIGMA) -> pd.DataFrame:
    values = profiles(frames, metric)
    return values[values.position > 0]


def _slopes(frames: Frames, family: str) -> dict[int, BySeed]:
    values = _behind_first(frames)
    return _by_size(frames, family, slopes(values.position.astype(float), values.value, values.run))


def _means(frames: Frames, metric: str = SHIFT_SIGMA) -> dict[int, BySeed]:
    values = _behind_first(frames, metric).groupby("run").value
    return _by_size(frames, "bn", values.mean().where(values.count() == values.size()))


# ---------------------------------------------------------------- B


def slope_by_size(frames: Frames) -> Iterator[Measured]:
    """BN's slope, for each size of the training set."""
    for size, by_seed in _slopes(frames, "bn").items():
        yield Measured(tuple(by_seed.values()), {"images": size}, _paper(_small(size)))


def mean_of_neighbours(frames: Frames) -> Iterator[Measured]:
    """BN's mean over the layers, of a training set less the next larger one, by seed."""
    yield from _of_neighbours(_means(frames))


def slope_of_neighbours(frames: Frames) -> Iterator[Measured]:
    """BN's slope, of a training set less the next larger one, by seed."""
    yield from _of_neighbours(_slopes(frames, "bn"))


def _of_neighbours(of_size: dict[int, BySeed]) -> Iterator[Measured]:
    for smaller, larger in pairwise(of_size):
        subset = {"smaller": smaller, "larger": larger}
        yield Measured(paired(of_size[smaller], of_size[larger]), subset)


def mean_on_training_images(frames: Frames) -> Iterator[Measured]:
    """BN's mean over the layers with the expected statistics of the training images."""
    for size, by_seed in _means(frames, f"{SHIFT_SIGMA}_train").items():
        yield Measured(tuple(by_seed.values()), {"images": size})


def mean_by_the_gap(frames: Frames) -> Iterator[Measured]:
    """BN's mean over the layers, of the test images less that of the training images, by seed.

    A difference of two means, and no split: the norms of its parts do not add up.
    """
    test, training = _means(frames), _means(frames, f"{SHIFT_SIGMA}_train")
    for size, by_seed in test.items():
        yield Measured(paired(by_seed, training.get(size, {})), {"images": size})


# ---------------------------------------------------------------- C


def slope_less_share(frames: Frames, share: float) -> Iterator[Measured]:
    """GNBN's slope less a share of BN's, by seed and over the layers that both have."""
    bn, gnbn = (_slopes(frames, family) for family in ("bn", "xbn"))
    for size in sorted({*bn, *gnbn}):
        part = {seed: share * value for seed, value in bn.get(size, {}).items()}
        paper = _paper(f"blocking/{size}", _small(size), share)
        yield Measured(paired(gnbn.get(size, {}), part), {"images": size, "share": share}, paper)


def highest_over_lowest(frames: Frames) -> Iterator[Measured]:
    """GNBN's highest layer over its lowest, by seed; NaN where a value is not finite."""
    layers = _behind_first(frames)
    values = layers[layers.norm_family == "xbn"].groupby("run").value
    is_ratio = (values.count() == values.size()) & np.isfinite(values.max()) & (values.min() > 0)
    ratios = (values.max() / values.min()).where(is_ratio)
    for size, by_seed in _by_size(frames, "xbn", ratios).items():
        yield Measured(tuple(by_seed.values()), {"images": size}, _papers_ratio(size))


# ---------------------------------------------------------------- the paper's


def _small(size: int) -> str:
    return f"small-training-sets/{size}"


def _series(name: str) -> Series | None:
    try:
        return load_paper()[name]
    except KeyError:
        return None


def _papers_slope(series: Series) -> tuple[float, float]:
    """The slope of the paper's points, and by how much it is off when all of them are read wrongly."""
    points = {layer: value for layer, value in series.values.items() if layer > 0}
    layers, values = list(points), list(points.values())
    middle = math.fsum(layers) / len(layers)
    away = [abs(layer - middle) for layer in layers]
    return slope(layers, values), series.tolerance * math.fsum(away) / math.fsum(one**2 for one in away)


def _paper(name: str, less: str | None = None, times: float = 1.0) -> PaperNumber | None:
    """The paper's slope, less `times` that of another series; None where it shows none of such a size."""
    series, other = _series(name), None if less is None else _series(less)
    if series is None or (less is not None and other is None):
        return None
    value, tolerance = _papers_slope(series)
    if other is not None:
        subtracted, its_tolerance = _papers_slope(other)
        value, tolerance = value - times * subtracted, tolerance + times * its_tolerance
    return PaperNumber(value, tolerance, series.label, _read_at(series))


def _read_at(series: Series) -> str:
    """The paper's ESM is not scaled, and it shows fewer layers than ours."""
    layers = sorted(layer for layer in series.values if layer > 0)
    return f"raw, of layers {', '.join(f'{layer:g}' for layer in layers)}"


def _papers_ratio(size: int) -> PaperNumber | None:
    series = _series(f"blocking/{size}")
    if series is None:
        return None
    behind = [value for layer, value in series.values.items() if layer > 0]
    high, low = max(behind), min(behind)
    most = (high + series.tolerance) / (low - series.tolerance)
    return PaperNumber(high / low, most - high / low, series.label)
