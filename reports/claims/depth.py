"""Claims B and C: the shift accumulates over depth, and batch-free norms between the layers block it.

A run's *slope* is that of the least-squares line of a layer's ESM σ, at the end of training, over the layer's
place in the network (0, 1, 2, …). All layers are equally wide, so the paper's norm compares as it is.

B, BN alone:

- with training sets of 256 images or fewer, the slope is above 0;
- over all sizes the slope falls with each doubling of the set: for each seed, the slope of the slopes over
  log₂(images) is below 0;
- between neighbouring sizes, the smaller set has the larger slope, paired by seed.

C, GNBN (GN in every second layer) beside BN, at each size, over the layers that both have:

- GNBN's slope less a quarter of BN's, paired by seed, is below 0;
- the interval of GNBN's slope lies below that of BN's, without overlap;
- behind the first layer, whose input is the image, the highest ESM σ of GNBN's layers is less than twice the
  lowest: the layers' curves coincide. (The paper's: 1.1 times with 32 images, 1.5 with 1,024.)
"""

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pandas as pd

from reports.claims.check import Measured, PaperNumber, Rule, paired
from reports.frames import Frames
from reports.paper.published import Series, load_paper
from reports.stats import slope, slopes

SMALL_SET_IMAGES = 256
QUARTER = 0.25
COINCIDE_RATIO = 2.0


def profiles(frames: Frames) -> pd.DataFrame:
    """ESM σ of completed runs at common layers: run, seed, norm, norm_family, images, position, value."""
    runs = frames.completed[["run", "seed", "norm", "norm_family", "global_batch_size"]]
    layers = frames.layers[(frames.layers.metric == "esm_sigma") & frames.layers.common]
    found = layers[["run", "position", "value"]].merge(runs, on="run")
    return found.rename(columns={"global_batch_size": "images"})


def _slopes(frames: Frames, family: str) -> dict[int, dict[int, float]]:
    """By training set size, seed → slope of this family's runs; NaN for a run that was not probed."""
    values = profiles(frames)
    of_run = slopes(values.position.astype(float), values.value, values.run)
    done = frames.completed[frames.completed.norm_family == family].sort_values(
        "global_batch_size", kind="stable"
    )
    found: dict[int, dict[int, float]] = {}
    for run, size, seed in zip(done.run, done.global_batch_size, done.seed, strict=True):
        found.setdefault(int(size), {})[int(seed)] = float(of_run.get(run, math.nan))
    return found


def _of_small_sets(frames: Frames) -> Iterator[Measured]:
    for size, by_seed in _slopes(frames, "bn").items():
        if size <= SMALL_SET_IMAGES:
            yield Measured(tuple(by_seed.values()), {"images": size}, paper=_paper(_small(size)))


def _by_doubling(frames: Frames) -> Iterator[Measured]:
    of_size = _slopes(frames, "bn")
    if len(of_size) < 2:
        return
    seeds = sorted({seed for by_seed in of_size.values() for seed in by_seed})
    doublings = [math.log2(size) for size in of_size]
    trends = [slope(doublings, [one.get(seed, math.nan) for one in of_size.values()]) for seed in seeds]
    yield Measured(tuple(trends), paper=_trend(of_size))


def _of_neighbours(frames: Frames) -> Iterator[Measured]:
    of_size = _slopes(frames, "bn")
    for smaller, larger in pairwise(of_size):
        values = paired(of_size[smaller], of_size[larger])
        subset = {"smaller": smaller, "larger": larger}
        yield Measured(values, subset, paper=_paper(_small(smaller), _small(larger)))


ACCUMULATION = (
    (Rule("{images:,} images: slope of ESM σ", "a layer", 3, _of_small_sets, "above"),),
    (Rule("change of the slope with each doubling", "a layer", 3, _by_doubling, "below"),),
    (Rule("{smaller:,} less {larger:,} images: slope", "a layer", 3, _of_neighbours, "above"),),
)


def _of_both(frames: Frames) -> Iterator[tuple[int, dict[int, float], dict[int, float]]]:
    """Training set size, and the slopes of GNBN and of BN by seed."""
    bn, gnbn = (_slopes(frames, family) for family in ("bn", "xbn"))
    yield from ((size, gnbn.get(size, {}), bn.get(size, {})) for size in sorted({*bn, *gnbn}))


def _less_quarter(frames: Frames) -> Iterator[Measured]:
    for size, gnbn, bn in _of_both(frames):
        values = paired(gnbn, {seed: QUARTER * value for seed, value in bn.items()})
        yield Measured(values, {"images": size}, paper=_paper(f"blocking/{size}", _small(size), QUARTER))


def _beside(frames: Frames) -> Iterator[Measured]:
    for size, gnbn, bn in _of_both(frames):
        paper = _paper(f"blocking/{size}")
        yield Measured(tuple(gnbn.values()), {"images": size}, tuple(bn.values()), paper)


def _over_lowest(frames: Frames) -> Iterator[Measured]:
    ratios = _highest_over_lowest(frames)
    for size, gnbn, _ in _of_both(frames):
        values = tuple(ratios.get((size, seed), math.nan) for seed in gnbn)
        yield Measured(values, {"images": size}, paper=_papers_ratio(size))


_IMAGES = "{images:,} images: GNBN's"
BLOCKING = (
    (
        Rule(f"{_IMAGES} slope less ¼ of BN's", "a layer", 3, _less_quarter, "below"),
        Rule(f"{_IMAGES} slope, beside BN's", "a layer", 3, _beside, "disjoint"),
        Rule(f"{_IMAGES} highest ESM σ over its lowest", "times", 2, _over_lowest, "below", COINCIDE_RATIO),
    ),
)


def _highest_over_lowest(frames: Frames) -> dict[tuple[int, int], float]:
    """By training set size and seed, over GNBN's layers behind the first; NaN where a value is not finite."""
    values = profiles(frames)
    values = values[(values.norm_family == "xbn") & (values.position > 0)]
    found: dict[tuple[int, int], float] = {}
    for _, layers in values.groupby("run"):
        first, heights = layers.iloc[0], layers.value.to_numpy(dtype=float)
        is_ratio = bool(np.isfinite(heights).all() and heights.min() > 0)
        cell = (int(first.images), int(first.seed))
        found[cell] = float(heights.max() / heights.min()) if is_ratio else math.nan
    return found


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
    layers, values = list(series.values), list(series.values.values())
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


def _trend(sizes: dict[int, dict[int, float]]) -> PaperNumber | None:
    found = {size: one for size in sizes if (one := _series(_small(size))) is not None}
    if len(found) < len(sizes):
        return None
    papers = [_papers_slope(one) for one in found.values()]
    doublings = [math.log2(size) for size in found]
    middle = math.fsum(doublings) / len(doublings)
    away = [abs(one - middle) for one in doublings]
    weight = math.fsum(one**2 for one in away)
    tolerance = math.fsum(a * t for a, (_, t) in zip(away, papers, strict=True)) / weight
    one = next(iter(found.values()))
    trend = slope(doublings, [value for value, _ in papers])
    return PaperNumber(trend, tolerance, one.label, _read_at(one))


def _read_at(series: Series) -> str:
    """Fewer layers than ours: where the curve bends, their slope is another."""
    layers = sorted(series.values)
    return f"of layers {', '.join(f'{layer:g}' for layer in layers)}"


def _papers_ratio(size: int) -> PaperNumber | None:
    series = _series(f"blocking/{size}")
    if series is None:
        return None
    behind = [value for layer, value in series.values.items() if layer > 0]
    high, low = max(behind), min(behind)
    most = (high + series.tolerance) / (low - series.tolerance)
    return PaperNumber(high / low, most - high / low, series.label)
