"""Answers along the norm batch: the shift as it shrinks, whose is smaller, where XBN beats BN and BN loses.

Every comparison is paired by seed; what its interval leaves open is said to be open.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import geometric_mean

import pandas as pd

from reports.findings.baseline_comparison import against_baseline
from reports.findings.shared_layers import mean_over_layers, over_shared_layers
from reports.frames import BN, CONTEXT, Frames
from reports.numbers import number, plural, short
from reports.stats import (
    MIN_SEEDS_FOR_A_CLAIM,
    SIGNIFICANCE,
    Comparison,
    Estimate,
    Outcome,
    compare_pairs,
    holm,
    judge,
    mean_interval,
    paired_difference,
    slope,
)

TOP1 = "top1_percent"
ESM = "esm_sigma_mean"
BySeed = dict[int, float]
_ESM_VERBS: dict[Outcome, str] = {
    "lower": "is below BN's: × {}",
    "higher": "is above BN's: × {}",
    "inconclusive": "is not told apart from BN's: × {}",
    "too few seeds": "is × {} of BN's",
}


@dataclass(frozen=True)
class Answer:
    """A sentence and the number in it. `norm_batch_size`: None where none of those that were run is one."""

    kind: str
    variant: str
    sentence: str
    norm_batch_size: int | None = None
    estimate: Estimate | None = None


def norm_batch_answers(frames: Frames, margin_points: float) -> list[Answer]:
    """For each model, data set and global batch at which BN was run with two or more norm batches.

    `esm_per_halving`: the factor by which a variant's mean ESM σ grows as the norm batch is halved, from the
    least-squares slope of log ESM over log₂ of it, seed by seed. `esm_against_bn`: a variant's mean ESM σ
    divided by BN's with the same seed, in geometric mean over the norm batches of both; a difference is what
    the paired t-test calls one, adjusted by Holm over the variants. `xbn_beats_bn`: the largest norm batch at
    which XBN's top-1 is above BN's by `against_baseline`. `bn_loses`: below which norm batch BN loses more
    than `margin_points` of top-1 against its own largest one.
    """
    found: list[Answer] = []
    counted = frames.runs[frames.runs.counted & frames.runs.has_bn]
    # Where a norm batch was run with several batches per GPU, these are apart.
    cell = [*CONTEXT, "norm", "norm_batch_size", "seed"]
    apart = ["batch_size_per_gpu"] if counted.duplicated(cell).any() else []
    axes = [*CONTEXT, *apart]
    contexts = list(counted.groupby(axes, sort=False))
    comparisons = against_baseline(frames, BN)
    shared = over_shared_layers(frames, BN, "esm_sigma", mean_over_layers)
    for key, runs in contexts:
        variants = {str(name): part for name, part in runs.groupby("norm", sort=False)}
        top1 = {name: _by_batch(part, TOP1) for name, part in variants.items()}
        bn = top1.get(BN, {})
        if len(bn) < 2:
            continue
        where = f"{key[0]} on {key[1]}{f', {key[2]}' if key[2] else ''}" if len(contexts) > 1 else ""
        where += f", batch per GPU {key[-1]}: " if apart else ": " if where else ""
        answers = [a for name, part in variants.items() for a in _grows(name, _by_batch(part, ESM))]
        answers += _against_bn(shared, variants)
        p_values = _adjusted(comparisons, dict(zip(axes, key, strict=True)))
        answers += [a for name in variants if name != BN for a in _beats(name, top1[name], bn, p_values)]
        answers.append(_loses(bn, margin_points))
        answers += _left_out(runs)
        found += [replace(answer, sentence=where + answer.sentence) for answer in answers]
    return found


def _by_batch(runs: pd.DataFrame, metric: str) -> dict[int, BySeed]:
    """Of completed runs, by norm batch, smallest first, and by seed."""
    done = runs[(runs.state == "completed") & runs[metric].map(math.isfinite)]
    done = done if metric == TOP1 else done[done[metric] > 0]  # of which the logarithm is taken
    found: dict[int, BySeed] = {}
    for size, seed, value in zip(done.norm_batch_size, done.seed, done[metric], strict=True):
        found.setdefault(int(size), {})[int(seed)] = float(value)
    return dict(sorted(found.items()))


def _left_out(runs: pd.DataFrame) -> Iterator[Answer]:
    """What did not complete, and so is in no answer: it may be the worst."""
    missing = runs[runs.state != "completed"]
    cells = missing.groupby(["norm", "norm_batch_size", "state"], sort=False).size()
    told = [f"{key[0]} at {key[1]}: {count} {key[2]}" for key, count in cells.items()]  # type: ignore[index]
    if told:
        text = f"Left out of these, since they did not complete: {'; '.join(told)}."
        yield Answer("left_out", "", text)


def _grows(name: str, esm: dict[int, BySeed]) -> Iterator[Answer]:
    sizes = list(esm)
    seeds = _in_all(list(esm.values())) if len(sizes) > 1 else []
    found = mean_interval(-_log_slope({size: esm[size][seed] for size in sizes}) for seed in seeds)
    if found is None:
        return
    factor = found.exp()
    verb = ""
    if factor.is_claim and not factor.excludes(1.0):
        verb = " is not shown to change"
    elif factor.is_claim:
        verb = " rises" if factor.mean > 1 else " falls"
    text = f"{name}'s mean ESM σ over its BN layers{verb} as the norm batch shrinks: × {short(factor.mean)}"
    text += f" for each halving from {sizes[-1]} to {sizes[0]}{_within(factor, 'seed')}."
    yield Answer("esm_per_halving", name, text, None, factor)


def _log_slope(values: dict[int, float]) -> float:
    """Of log ESM over log₂ of the norm batch."""
    return slope([math.log2(size) for size in values], [math.log(value) for value in values.values()])


def _against_bn(shared: pd.DataFrame, variants: dict[str, pd.DataFrame]) -> Iterator[Answer]:
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
            told = _ESM_VERBS[judge(ratio, p, 1.0)].format(short(ratio.mean))
            many = f"in geometric mean over norm batches {_list(sizes)}"
            where = many if len(sizes) > 1 else f"at norm batch {sizes[0]}"
            text = f"{name}'s mean ESM σ over the layers that both have {told} {where}"
            yield Answer("esm_against_bn", name, f"{text}{_within(ratio, 'paired seed')}.", None, ratio)


def _in_all(values: Sequence[BySeed]) -> list[int]:
    """Seeds that all of these have."""
    return sorted(set.intersection(*map(set, values)))


def _within(estimate: Estimate, what: str) -> str:
    """Its interval, where it has one, and whether it is enough to claim something."""
    if estimate.low is None or estimate.high is None:
        return _too_few(estimate.n)
    interval = f"{short(estimate.low)} to {short(estimate.high)}"
    return f" (95\u00a0% interval {interval}, {plural(estimate.n, what)}){_too_few(estimate.n)}"


def _adjusted(comparisons: pd.DataFrame, place: dict[str, object]) -> dict[tuple[str, int], float]:
    """Of each variant and norm batch at this place, the p with which it stands against BN."""
    here = comparisons[(comparisons[list(place)] == pd.Series(place)).all(axis=1)].sort_values("top1_n")
    return dict(
        zip(zip(here.norm, here.norm_batch_size.astype(int), strict=True), here.top1_p_holm, strict=True)
    )


def _beats(
    name: str, ours: dict[int, BySeed], bn: dict[int, BySeed], p_values: dict[tuple[str, int], float]
) -> Iterator[Answer]:
    differences = {s: e for s in bn if (e := paired_difference(ours.get(s, {}), bn[s])) is not None}
    if not differences:
        return
    surely = [
        s for s, e in differences.items() if e.mean > 0 and p_values.get((name, s), math.nan) < SIGNIFICANCE
    ]
    if surely:
        largest = max(surely)
        there = _points(differences[largest])
        text = f"The largest norm batch at which {name} beats BN in top-1 is {largest}, by {there}"
        others = [size for size in differences if size not in surely]
        text += f"; at {_list(others)} it is not shown to" if others else "; it does so at every smaller one"
        yield Answer("xbn_beats_bn", name, f"{text}.", largest, differences[largest])
    else:
        text = f"{name} is not shown to beat BN in top-1 at any norm batch ({_list(list(differences))})"
        most = max(e.n for e in differences.values())
        yield Answer("xbn_beats_bn", name, f"{text}{_too_few(most)}.")


def _loses(bn: dict[int, BySeed], margin: float) -> Answer:
    largest = max(bn)
    differences = {
        s: e for s in bn if s < largest and (e := paired_difference(bn[s], bn[largest])) is not None
    }
    worse = {s for s, e in differences.items() if e.is_claim and e.high is not None and e.high < -margin}
    # Below a batch means at every smaller one.
    below = [size for size in differences if all(other in worse for other in differences if other <= size)]
    what = (
        f"more than {margin:g} {'point' if margin == 1 else 'points'} of top-1 against norm batch {largest}"
    )
    if not below:
        most = max((e.n for e in differences.values()), default=0)
        text = f"BN is not shown to lose {what} at norm batch {_list(list(differences))}{_too_few(most)}."
        return Answer("bn_loses", "BN", text)
    threshold = min(size for size in bn if size > max(below))
    there = differences[max(below)]
    text = f"BN loses {what} below norm batch {threshold}: at {max(below)} it is {_points(there)}."
    return Answer("bn_loses", "BN", text, threshold, there)


def _too_few(seeds: int) -> str:
    return f"; nothing is claimed from {plural(seeds, 'seed')}" if seeds < MIN_SEEDS_FOR_A_CLAIM else ""


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
