"""What a comparison of two sets of runs is tested over: a mean for each seed, over the same cells."""

import math
from collections.abc import Collection
from dataclasses import dataclass

from reports.aggregate import cell_numbers
from reports.findings.two_sides import Compared, MatchedRuns
from reports.stats import MIN_SEEDS_FOR_A_CLAIM, Estimate, mean_t_interval, paired_p

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
    estimate = mean_t_interval(means)
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
