"""Where along the norm batch the answer changes: up to where XBN beats BN, and below which BN loses.

Every comparison is paired by seed; what its interval leaves open is said to be open.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from reports.frames import CONTEXT, Frames
from reports.numbers import number, plural
from reports.stats import MIN_SEEDS_FOR_A_CLAIM, Estimate, paired_difference

METRIC = "top1_percent"


@dataclass(frozen=True)
class Threshold:
    """An answer: `norm_batch_size` is None where no norm batch that was run is one."""

    kind: str
    variant: str
    norm_batch_size: int | None
    sentence: str


def thresholds(frames: Frames, margin_points: float) -> list[Threshold]:
    """For each model, data and global batch with two or more norm batches of BN: where XBN stops to beat it,
    and below which it loses more than `margin_points` of top-1 against its own largest norm batch.
    """
    found: list[Threshold] = []
    contexts = list(frames.runs[frames.runs.counted].groupby(CONTEXT, sort=False))
    for key, runs in contexts:
        bn = _by_batch(runs[runs.norm_rank == 0])
        if len(bn) < 2:
            continue
        where = f"{key[0]} on {key[1]}{f', {key[2]}' if key[2] else ''}: " if len(contexts) > 1 else ""
        variants = [(str(name), part) for name, part in runs[runs.norm_rank == 1].groupby("norm", sort=False)]
        answers = [*_beats(variants, bn), _loses(bn, margin_points)]
        found += [Threshold(a.kind, a.variant, a.norm_batch_size, where + a.sentence) for a in answers]
    return found


def _by_batch(runs: pd.DataFrame) -> dict[int, dict[int, float]]:
    """Top-1 by seed by norm batch, of completed runs, smallest batch first."""
    done = runs[(runs.state == "completed") & runs[METRIC].map(math.isfinite)]
    found: dict[int, dict[int, float]] = {}
    for size, seed, value in zip(done.norm_batch_size, done.seed, done[METRIC], strict=True):
        found.setdefault(int(size), {})[int(seed)] = float(value)
    return dict(sorted(found.items()))


def _beats(variants: list[tuple[str, pd.DataFrame]], bn: dict[int, dict[int, float]]) -> Iterator[Threshold]:
    for name, runs in variants:
        ours = _by_batch(runs)
        differences = {s: e for s in bn if (e := paired_difference(ours.get(s, {}), bn[s])) is not None}
        if not differences:
            continue
        surely = [size for size, e in differences.items() if _is_claim(e) and e.excludes(0) and e.mean > 0]
        if surely:
            largest = max(surely)
            text = f"{name} beats BN up to norm batch {largest}: {_points(differences[largest])} there"
            above = [size for size in differences if size > largest]
            text += f"; at {_list(above)} it is not shown to" if above else ", the largest that was run"
            yield Threshold("xbn_beats_bn", name, largest, f"{text}.")
        else:
            sizes = _list(list(differences))
            text = f"{name} is not shown to beat BN at any norm batch ({sizes}){_too_few(differences)}."
            yield Threshold("xbn_beats_bn", name, None, text)


def _loses(bn: dict[int, dict[int, float]], margin: float) -> Threshold:
    largest = max(bn)
    differences = {
        s: e for s in bn if s < largest and (e := paired_difference(bn[s], bn[largest])) is not None
    }
    worse = [s for s, e in differences.items() if _is_claim(e) and e.high is not None and e.high < -margin]
    # Below a batch means at every one that is smaller.
    run = [
        size for size in sorted(differences) if all(other in worse for other in differences if other <= size)
    ]
    what = (
        f"more than {margin:g} {'point' if margin == 1 else 'points'} of top-1 against norm batch {largest}"
    )
    if not run:
        sizes = _list(sorted(differences))
        text = f"BN is not shown to lose {what} at norm batch {sizes}{_too_few(differences)}."
        return Threshold("bn_loses", "BN", None, text)
    threshold = min(size for size in bn if size > max(run))
    text = (
        f"BN loses {what} below norm batch {threshold}: at {max(run)} it is {_points(differences[max(run)])}."
    )
    return Threshold("bn_loses", "BN", threshold, text)


def _is_claim(estimate: Estimate) -> bool:
    return estimate.n >= MIN_SEEDS_FOR_A_CLAIM


def _too_few(differences: dict[int, Estimate]) -> str:
    most = max((e.n for e in differences.values()), default=0)
    return f"; nothing is claimed from {plural(most, 'paired seed')}" if most < MIN_SEEDS_FOR_A_CLAIM else ""


def _points(estimate: Estimate) -> str:
    signed = f"{'+' if estimate.mean > 0 else ''}{number(estimate.mean, 2)} points"
    if estimate.low is None or estimate.high is None:
        return signed
    return (
        f"{signed} (95\u00a0% interval {number(estimate.low, 2)} to {number(estimate.high, 2)}, "
        f"{plural(estimate.n, 'paired seed')})"
    )


def _list(sizes: list[int]) -> str:
    return ", ".join(map(str, sizes))
