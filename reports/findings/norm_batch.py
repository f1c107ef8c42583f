"""Answers along the norm batch: the shift as it shrinks, whose is smaller, where XBN beats BN and BN loses.

Every comparison is paired by seed; an answer that its interval leaves open says so.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import geometric_mean

import pandas as pd

from reports.accuracy import ACCURACY, accuracy_name
from reports.findings.baseline import mean_over_layers, over_shared_layers
from reports.frames import BN, CONTEXT, Frames
from reports.sentences import sentence
from reports.stats import (
    SIGNIFICANCE,
    Comparison,
    Estimate,
    compare_pairs,
    holm,
    judge,
    mean_interval,
    paired_difference,
    slope,
)
from suite.metrics import SHIFT_SIGMA

ESM = f"{SHIFT_SIGMA}_mean"
BySeed = dict[int, float]


@dataclass(frozen=True)
class NormBatchAnswer:
    """A sentence and the number in it. `norm_batch_size`: None where none of those that were run is one."""

    kind: str
    variant: str
    sentence: str
    norm_batch_size: int | None = None
    estimate: Estimate | None = None


def norm_batch_answers(
    frames: Frames, comparison: pd.DataFrame, margin_points: float
) -> list[NormBatchAnswer]:
    """For each model, data set and global batch at which BN was run with two or more norm batches.

    `esm_per_halving`: the factor by which a variant's mean scaled ESM σ grows as the norm batch is halved,
    from the least-squares slope of log ESM over log₂ of it, seed by seed. `esm_against_bn`: that mean
    divided by BN's with the same seed, in geometric mean over the norm batches of both; a difference is what
    the paired t-test calls one, adjusted by Holm over the variants. `xbn_beats_bn`: the largest norm batch at
    which XBN's accuracy is above BN's by `against_baseline`. `bn_loses`: below which norm batch BN loses more
    than `margin_points` of accuracy against its own largest one.

    `comparison`: what `against_baseline` gives for the same frames and BN.
    """
    found: list[NormBatchAnswer] = []
    counted = frames.runs[frames.runs.counted & frames.runs.has_bn]
    # Where a norm batch was run with several batches per GPU, each has its own answers.
    cell = [*CONTEXT, "norm", "norm_batch_size", "seed"]
    apart = ["batch_size_per_gpu"] if counted.duplicated(cell).any() else []
    axes = [*CONTEXT, *apart]
    contexts = list(counted.groupby(axes, sort=False))
    shared = over_shared_layers(frames, BN, SHIFT_SIGMA, mean_over_layers)
    for key, runs in contexts:
        variants = {str(name): part for name, part in runs.groupby("norm", sort=False)}
        top1 = {name: _by_batch(part, ACCURACY) for name, part in variants.items()}
        bn, accuracy = top1.get(BN, {}), accuracy_name(runs)
        if len(bn) < 2:
            continue
        where = f"{key[0]} on {key[1]}{f', {key[2]}' if key[2] else ''}" if len(contexts) > 1 else ""
        where += f", batch per GPU {key[-1]}: " if apart else ": " if where else ""
        answers = [a for name, part in variants.items() for a in _grows(name, _by_batch(part, ESM))]
        answers += _against_bn(shared, variants)
        p_values = _adjusted(comparison, dict(zip(axes, key, strict=True)))
        answers += [
            a for name in variants if name != BN for a in _beats(name, top1[name], bn, p_values, accuracy)
        ]
        answers.append(_loses(bn, margin_points, accuracy))
        answers += _left_out(runs)
        found += [replace(answer, sentence=where + answer.sentence) for answer in answers]
    return found


def _by_batch(runs: pd.DataFrame, metric: str) -> dict[int, BySeed]:
    """Of completed runs, by norm batch, smallest first, and by seed."""
    done = runs[(runs.state == "completed") & runs[metric].map(math.isfinite)]
    done = done if metric == ACCURACY else done[done[metric] > 0]  # of which the logarithm is taken
    found: dict[int, BySeed] = {}
    for size, seed, value in zip(done.norm_batch_size, done.seed, done[metric], strict=True):
        found.setdefault(int(size), {})[int(seed)] = float(value)
    return dict(sorted(found.items()))


def _left_out(runs: pd.DataFrame) -> Iterator[NormBatchAnswer]:
    """Name what did not complete, and so is in no answer, since it may be the worst."""
    missing = runs[runs.state != "completed"]
    cells = missing.groupby(["norm", "norm_batch_size", "state"], sort=False).size()
    texts = [f"{key[0]} at {key[1]}: {count} {key[2]}" for key, count in cells.items()]  # type: ignore[index]
    if texts:
        text = f"Left out of these, since they did not complete: {'; '.join(texts)}."
        yield NormBatchAnswer("left_out", "", text)


def _grows(name: str, esm: dict[int, BySeed]) -> Iterator[NormBatchAnswer]:
    sizes = list(esm)
    seeds = _in_all(list(esm.values())) if len(sizes) > 1 else []
    found = mean_interval(-_log_slope({size: esm[size][seed] for size in sizes}) for seed in seeds)
    if found is None:
        return
    factor = found.exp()
    text = sentence("esm_per_halving", name=name, factor=factor, sizes=sizes)
    yield NormBatchAnswer("esm_per_halving", name, text, None, factor)


def _log_slope(values: dict[int, float]) -> float:
    """Of log ESM over log₂ of the norm batch."""
    return slope([math.log2(size) for size in values], [math.log(value) for value in values.values()])


def _against_bn(shared: pd.DataFrame, variants: dict[str, pd.DataFrame]) -> Iterator[NormBatchAnswer]:
    """`shared`: run, rival and value of `over_shared_layers`."""
    found: dict[str, tuple[list[int], Comparison]] = {}
    for name, runs in variants.items():
        values = shared[shared.rival == name][["run", "value"]]
        ours, bn = (_by_batch(part.merge(values, on="run"), "value") for part in (runs, variants[BN]))
        if sizes := [size for size in bn if size in ours]:
            seeds = _in_all([side[size] for side in (ours, bn) for size in sizes])
            means = [[geometric_mean(side[s][seed] for s in sizes) for seed in seeds] for side in (ours, bn)]
            found[name] = (sizes, compare_pairs(*means, ratio=True))
    p_values = holm([one.p for _, one in found.values()])
    for (name, (sizes, one)), p in zip(found.items(), p_values, strict=True):
        if (ratio := one.estimate) is not None:
            outcome = judge(ratio, p, 1.0)
            text = sentence("esm_against_bn", name=name, ratio=ratio, outcome=outcome, sizes=sizes)
            yield NormBatchAnswer("esm_against_bn", name, text, None, ratio)


def _in_all(values: Sequence[BySeed]) -> list[int]:
    """Seeds that all of these have."""
    return sorted(set.intersection(*map(set, values)))


def _adjusted(comparison: pd.DataFrame, place: dict[str, object]) -> dict[tuple[str, int], float]:
    """Of each variant and norm batch at this place, the p with which it stands against BN."""
    here = comparison[(comparison[list(place)] == pd.Series(place)).all(axis=1)].sort_values("top1_n")
    return dict(
        zip(zip(here.norm, here.norm_batch_size.astype(int), strict=True), here.top1_p_holm, strict=True)
    )


def _beats(
    name: str,
    ours: dict[int, BySeed],
    bn: dict[int, BySeed],
    p_values: dict[tuple[str, int], float],
    accuracy: str,
) -> Iterator[NormBatchAnswer]:
    differences = {s: e for s in bn if (e := paired_difference(ours.get(s, {}), bn[s])) is not None}
    if not differences:
        return
    surely = [
        s for s, e in differences.items() if e.mean > 0 and p_values.get((name, s), math.nan) < SIGNIFICANCE
    ]
    if surely:
        largest = max(surely)
        there, others = differences[largest], [size for size in differences if size not in surely]
        numbers = {"largest": largest, "difference": there, "others": others}
        text = sentence("xbn_beats_bn", name=name, accuracy=accuracy, **numbers)
        yield NormBatchAnswer("xbn_beats_bn", name, text, largest, there)
    else:
        text = sentence("xbn_does_not_beat_bn", name=name, accuracy=accuracy, sizes=list(differences))
        yield NormBatchAnswer("xbn_beats_bn", name, text)


def _loses(bn: dict[int, BySeed], margin: float, accuracy: str) -> NormBatchAnswer:
    largest = max(bn)
    differences = {
        s: e for s in bn if s < largest and (e := paired_difference(bn[s], bn[largest])) is not None
    }
    worse = {s for s, e in differences.items() if e.interval is not None and e.interval[1] < -margin}
    # Below a batch means at every smaller one.
    below = [size for size in differences if all(other in worse for other in differences if other <= size)]
    texts = {"margin": margin, "largest": largest, "accuracy": accuracy}
    if not below:
        text = sentence("bn_does_not_lose", **texts, sizes=list(differences))
        return NormBatchAnswer("bn_loses", "BN", text)
    threshold, at = min(size for size in bn if size > max(below)), max(below)
    text = sentence("bn_loses", **texts, threshold=threshold, at=at, difference=differences[at])
    return NormBatchAnswer("bn_loses", "BN", text, threshold, differences[at])
