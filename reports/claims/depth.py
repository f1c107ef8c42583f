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
- the interval of GNBN's slope lies below that of BN's: the two are apart;
- behind the first layer, whose input is the image, the highest ESM σ of GNBN's layers is less than twice the
  lowest: the layers' curves coincide. (The paper's: 1.1 times with 32 images, 1.5 with 1,024.)
"""

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pandas as pd

from reports.claims.check import Apart, Check, PaperNumber, paired
from reports.frames import Frames
from reports.paper.numbers import Series, load_paper
from reports.stats import slope, slopes

SMALL_SET_IMAGES = 256
QUARTER = 0.25
COINCIDE_RATIO = 2.0


def profiles(frames: Frames) -> pd.DataFrame:
    """ESM σ of completed runs at common layers: run, seed, norm, norm_rank, images, position, value."""
    runs = frames.completed[["run", "seed", "norm", "norm_rank", "global_batch_size"]]
    layers = frames.layers[(frames.layers.metric == "esm_sigma") & frames.layers.common]
    found = layers[["run", "position", "value"]].merge(runs, on="run")
    return found.rename(columns={"global_batch_size": "images"})


def _slopes(frames: Frames) -> dict[tuple[int, int], dict[int, float]]:
    """By norm_rank (0 BN, 1 XBN) and training set size, seed → slope; NaN for a run that was not probed."""
    values = profiles(frames)
    of_run = slopes(values.position.astype(float), values.value, values.run)
    found: dict[tuple[int, int], dict[int, float]] = {}
    done = frames.completed
    for run, rank, size, seed in zip(
        done.run, done.norm_rank, done.global_batch_size, done.seed, strict=True
    ):
        found.setdefault((int(rank), int(size)), {})[int(seed)] = float(of_run.get(run, math.nan))
    return found


def accumulation_checks(frames: Frames) -> Iterator[Check]:
    """Claim B."""
    of_size = {size: by_seed for (rank, size), by_seed in sorted(_slopes(frames).items()) if rank == 0}
    unit = "a layer"
    for size, by_seed in of_size.items():
        if size <= SMALL_SET_IMAGES:
            told = f"{size:,} images: slope of ESM σ"
            yield Check(
                told, unit, tuple(by_seed.values()), "above", 0, 3, _paper(f"small-training-sets/{size}")
            )
    if len(of_size) < 2:
        return
    seeds = sorted({seed for by_seed in of_size.values() for seed in by_seed})
    doublings = [math.log2(size) for size in of_size]
    trends = [slope(doublings, [one.get(seed, math.nan) for one in of_size.values()]) for seed in seeds]
    yield Check(
        "change of the slope with each doubling",
        unit,
        tuple(trends),
        "below",
        0,
        3,
        _trend(of_size),
    )
    for smaller, larger in pairwise(of_size):
        told = f"{smaller:,} less {larger:,} images: slope"
        yield Check(
            told, unit, paired(of_size[smaller], of_size[larger]), "above", 0, 3, _less(smaller, larger)
        )


def blocking_checks(frames: Frames) -> Iterator[Check]:
    """Claim C."""
    cells = _slopes(frames)
    ratios = _highest_over_lowest(frames)
    for size in sorted({size for _, size in cells}):
        bn, gnbn = cells.get((0, size), {}), cells.get((1, size), {})
        quarter = {seed: QUARTER * value for seed, value in bn.items()}
        yield Check(
            f"{size:,} images: GNBN's slope less ¼ of BN's",
            "a layer",
            paired(gnbn, quarter),
            "below",
            0,
            3,
            _paper(f"blocking/{size}", f"small-training-sets/{size}", QUARTER),
        )
        yield Apart(
            f"{size:,} images: GNBN's slope, beside BN's",
            "a layer",
            tuple(gnbn.values()),
            "below",
            0,
            3,
            _paper(f"blocking/{size}"),
            tuple(bn.values()),
        )
        told = f"{size:,} images: GNBN's highest ESM σ over its lowest"
        values = tuple(ratios.get((size, seed), math.nan) for seed in gnbn)
        yield Check(told, "times", values, "below", COINCIDE_RATIO, 2, _papers_ratio(size))


def _highest_over_lowest(frames: Frames) -> dict[tuple[int, int], float]:
    """By training set size and seed, over GNBN's layers behind the first; NaN where a value is not finite."""
    values = profiles(frames)
    values = values[(values.norm_rank == 1) & (values.position > 0)]
    found: dict[tuple[int, int], float] = {}
    for _, layers in values.groupby("run"):
        first, heights = layers.iloc[0], layers.value.to_numpy(dtype=float)
        is_ratio = bool(np.isfinite(heights).all() and heights.min() > 0)
        cell = (int(first.images), int(first.seed))
        found[cell] = float(heights.max() / heights.min()) if is_ratio else math.nan
    return found


# ---------------------------------------------------------------- the paper's


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


def _less(smaller: int, larger: int) -> PaperNumber | None:
    return _paper(f"small-training-sets/{smaller}", f"small-training-sets/{larger}")


def _trend(sizes: dict[int, dict[int, float]]) -> PaperNumber | None:
    found = {size: one for size in sizes if (one := _series(f"small-training-sets/{size}")) is not None}
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
