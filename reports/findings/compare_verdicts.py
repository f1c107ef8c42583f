"""What a comparison of two sets of runs comes to, over seeds, in sentences."""

import math
from collections.abc import Collection
from dataclasses import dataclass

import pandas as pd

from reports.aggregate import HARDWARE, cell_numbers
from reports.findings.two_sides import COMPARED, Compared, MatchedRuns
from reports.frames import GROUP
from reports.numbers import plural
from reports.sentences import sentence
from reports.stats import MIN_SEEDS_FOR_A_CLAIM, Estimate, difference_interval, holm, judge, paired_p

_MAX_NAMED = 3
Seeds = frozenset[int]
# Sets of seeds are intersected so often, and so many of them: beyond, a better one might be missed.
_ROUNDS, _MAX_SETS = 2, 64


@dataclass(frozen=True)
class OverSeeds:
    """A metric's comparison over `estimate.n` of `all_seeds` seeds, each a mean over `cells` of `all_cells`.

    `estimate`: of the difference or the ratio; None without a pair. `p`: NaN below three seeds.
    """

    estimate: Estimate | None
    p: float
    all_seeds: int
    cells: int
    all_cells: int


def compare_over_seeds(comparison: MatchedRuns, metric: Compared) -> OverSeeds:
    """B − A, or B / A, of the seeds' means over the cells that these seeds all have on both sides.

    Cells of one seed share its draws, so that only seeds are independent: each is one value.
    """
    values = comparison.values(metric)
    seed = comparison.completed.seed[values.index]
    cell = cell_numbers(comparison.completed)[values.index]
    differences: dict[tuple[int, int], float] = {
        (int(c), int(s)): math.log(b) - math.log(a) if metric.is_ratio else b - a
        for c, s, a, b in zip(cell, seed, values.a, values.b, strict=True)
    }
    have: dict[int, set[int]] = {}
    for c, s in differences:
        have.setdefault(c, set()).add(s)
    seeds = shared_seeds([frozenset(one) for one in have.values()])
    cells = [c for c, mine in have.items() if seeds <= mine]
    means = [math.fsum(differences[c, s] for c in cells) / len(cells) for s in sorted(seeds)]
    estimate = difference_interval(means)
    if metric.is_ratio and estimate is not None:
        estimate = estimate.exp()
    all_seeds = {s for _, s in differences}
    return OverSeeds(estimate, paired_p(means), len(all_seeds), len(cells), len(have))


def shared_seeds(cells: Collection[Seeds]) -> Seeds:
    """The seeds to compare over: of those that some cells all have, the ones with the most pairs.

    Enough for a claim come first, then the number of pairs, then that of seeds. Values play no part.
    """
    distinct = sorted(set(cells), key=lambda one: (-len(one), sorted(one)))
    candidates = dict.fromkeys(distinct)
    for _ in range(_ROUNDS):
        before = [*candidates][:_MAX_SETS]
        candidates |= dict.fromkeys(one & other for one in before for other in distinct[:_MAX_SETS])
    common = distinct[0] if distinct else Seeds()
    for one in distinct:
        common &= one
        candidates[common] = None

    def worth(one: Seeds) -> tuple[bool, int, int]:
        pairs = len(one) * sum(one <= mine for mine in cells)
        return len(one) >= MIN_SEEDS_FOR_A_CLAIM, pairs, len(one)

    return max(candidates, key=worth, default=Seeds())


def verdict_sentences(comparison: MatchedRuns, table: pd.DataFrame) -> list[str]:
    """One for each judged metric, over seeds: equal, the same, better, worse, or inconclusive.

    The same: the interval lies within the metric's margin. Better and worse: p, adjusted by Holm over the
    metrics, is below SIGNIFICANCE. `table`: that of `comparison_table`.
    """
    judged = [metric for metric in COMPARED if metric.is_judged]
    found = [compare_over_seeds(comparison, metric) for metric in judged]
    adjusted = holm([one.p for one in found])
    texts = []
    for metric, one, p in zip(judged, found, adjusted, strict=True):
        pairs = comparison.values(metric)
        if one.estimate is None:
            texts.append(f"{metric.title}: no pair of runs measured it on both sides.")
        elif (pairs.a == pairs.b).all():
            texts.append(sentence("equal_pairs", title=metric.title, pairs=len(pairs)))
        else:
            # In how many cells B is better: a mean over unlike cells may hide that they disagree.
            rows = table[table.metric == metric.column]
            outcome = rows.estimate.gt(metric.neutral).map({True: "higher", False: "lower"})
            better = int(((outcome == metric.direction) & (rows.estimate != metric.neutral)).sum())
            word = _word(metric, one.estimate, p)
            more = {"p_holm": p, "better": better, "cells": len(rows)}
            texts.append(sentence("over_seeds", metric=metric, word=word, found=one, **more))
    return texts


def _word(metric: Compared, estimate: Estimate, p: float) -> str:
    outcome = judge(estimate, p, metric.neutral)
    if outcome == "too few seeds":
        return "too few seeds for a claim"
    if estimate.interval is not None:
        farthest = max(abs(end - metric.neutral) for end in estimate.interval)
        if farthest <= metric.margin:
            shown = f"{_up(farthest * 100)} %" if metric.is_ratio else f"{_up(farthest)} points"
            return f"the same within {shown}"
    if outcome == "inconclusive":
        return "inconclusive"
    return "B is better" if outcome == metric.direction else "B is worse"


def _up(value: float) -> str:
    """Rounded up to two significant digits, so that "within" stays true."""
    if value == 0:
        return "0"
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / step - 1e-9) * step:.2g}"


def coverage_notes(comparison: MatchedRuns) -> list[str]:
    """Which runs the comparison is over, and what makes it less than like with like."""
    pairs, done = comparison.pairs, comparison.completed
    notes = [f"{plural(len(pairs), 'run')} matched, of which {len(done)} completed on both sides."]
    for mine, other, only in zip(("A", "B"), ("B", "A"), comparison.only_in, strict=True):
        cells = only[only.whole_cell].drop_duplicates(GROUP)
        if len(cells):
            shown = cells.head(_MAX_NAMED)
            names = [f"{c.norm} at norm batch {c.norm_batch_size}" for _, c in shown.iterrows()]
            more = len(cells) - _MAX_NAMED
            notes.append(sentence("only_in", side=mine, cells=len(cells), names=names, more=more))
        if seeds := int((~only.whole_cell).sum()):
            notes.append(sentence("seeds_only_in", side=mine, runs=seeds))
        alone = pairs[pairs[f"state_{mine.lower()}"] == "completed"]
        states = alone[f"state_{other.lower()}"].value_counts().drop("completed", errors="ignore").to_dict()
        if states:
            notes.append(sentence("completed_on_one_side", side=mine, other=other, states=states))
    for side, skipped in zip("AB", comparison.skipped, strict=True):
        if skipped:
            reason = skipped[0].reason
            notes.append(sentence("not_read", side=side, reason=reason, more=len(skipped) - 1))
    if unlike := int((pairs.run_id_a != pairs.run_id_b).sum()):
        notes.append(sentence("unlike_pairs", pairs=unlike))
    return notes + _hardware_notes(done)


def _hardware_notes(done: pd.DataFrame) -> list[str]:
    sides = [done[[f"{name}_{side}" for name in HARDWARE]].astype(object) for side in "ab"]
    a, b = (side.where(side.notna(), None).set_axis(HARDWARE, axis=1) for side in sides)
    differ = ((a != b) & ~(a.isna() & b.isna())).any(axis=1)
    if not differ.any():
        return []
    names = [
        " and ".join(
            f"{d or 'unknown'} × {r or '?'}" for d, r in kinds.head(_MAX_NAMED).itertuples(index=False)
        )
        for kinds in (side[differ].drop_duplicates() for side in (a, b))
    ]
    return [sentence("different_hardware", pairs=int(differ.sum()), total=len(done), names=names)]
