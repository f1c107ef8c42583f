"""At each norm batch: all norms by accuracy, and which of them do not differ significantly from the best.

A norm without BN has no norm batch: it is ranked at each. The paired t-test over the seeds that both
completed says whether two norms differ. Pairs with the baseline are those of `against_baseline`,
adjusted by Holm over all comparisons with it; the other pairs are adjusted by Holm among themselves.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import pandas as pd

from reports.accuracy import ACCURACY
from reports.aggregate import estimate_columns, estimate_of, finite
from reports.findings.baseline import BASELINE
from reports.frames import CONTEXT, Frames
from reports.stats import (
    MIN_SEEDS_FOR_A_CLAIM,
    Comparison,
    Estimate,
    compare_pairs,
    holm,
    judge,
    mean_interval,
)

LAYOUT = [*CONTEXT, "batch_size_per_gpu"]
Values = Mapping[int, float]  # by seed
Place = tuple[object, ...]  # the values of LAYOUT
# A norm with its norm batch; of a norm without BN, None.
Cell = tuple[str, int | None]


@dataclass(frozen=True)
class Difference:
    """One norm's accuracy less another's over paired seeds, and its adjusted p."""

    estimate: Estimate | None
    p_holm: float

    @property
    def negated(self) -> "Difference":
        return Difference(self.estimate.negated if self.estimate else None, self.p_holm)

    @property
    def is_higher(self) -> bool:
        return judge(self.estimate, self.p_holm, 0.0) == "higher"


def ranking(
    frames: Frames, norms: list[str], comparison: pd.DataFrame | None, baseline: str | None
) -> pd.DataFrame:
    """A row for each norm at each place: LAYOUT, norm_batch_size, norm, has_bn, rank, and what follows.

    `norms`: those that are ranked. `comparison`: what `against_baseline` gives for `baseline`; None without
    one. `accuracy_*` is the mean over completed seeds, `behind_*` the best norm's accuracy less this one's
    over paired seeds (mean, low, high, n), with p_holm. `is_best`: the best norm, and those that are not
    significantly worse; `is_open`: it has too few seeds to say so. The best is the first that has enough.
    Rows are in the order of the runs and by rank; norm_batch_size is NA where no norm has one.
    """
    cells = _cells(frames, norms)
    known = _with_baseline(comparison)
    others = _other_pairs(cells, baseline)
    rows: list[dict[str, object]] = []
    for place, by_cell in cells.items():
        for size in _sizes(by_cell):
            here = {cell: seeds for cell, seeds in by_cell.items() if cell[1] in (size, None)}
            means = {cell: sum(seeds.values()) / len(seeds) for cell, seeds in here.items()}
            ordered = sorted(means, key=means.__getitem__, reverse=True)
            best = next((cell for cell in ordered if len(here[cell]) >= MIN_SEEDS_FOR_A_CLAIM), ordered[0])
            pairs = _Pairs(place, size, known, others, baseline)
            for rank, cell in enumerate(ordered, start=1):
                behind = pairs.difference(best, cell) if cell != best else None
                rows.append(_row(place, size, cell, rank, here[cell], behind))
    columns = [*LAYOUT, "norm_batch_size", "norm", "has_bn", "rank", "is_best", "is_open", "p_holm"]
    estimates = [f"{name}_{part}" for name in ("accuracy", "behind") for part in ("mean", "low", "high", "n")]
    table = pd.DataFrame(rows, columns=[*columns, *estimates])
    return table.astype({"norm_batch_size": "Int64", "rank": int, "is_best": bool, "is_open": bool})


def _cells(frames: Frames, norms: list[str]) -> dict[Place, dict[Cell, dict[int, float]]]:
    """The accuracy of completed runs: by place, cell and seed."""
    done = finite(frames.completed[frames.completed.norm.isin(norms)], ACCURACY)
    found: dict[Place, dict[Cell, dict[int, float]]] = {}
    columns = [*LAYOUT, "norm", "norm_batch_size", "has_bn", "seed", ACCURACY]
    for *place, norm, size, has_bn, seed, value in done[columns].itertuples(index=False, name=None):
        by_cell = found.setdefault(tuple(place), {})
        by_cell.setdefault((norm, int(size) if has_bn else None), {})[int(seed)] = float(value)
    return found


def _sizes(by_cell: Mapping[Cell, Values]) -> list[int | None]:
    sizes = sorted({size for _, size in by_cell if size is not None})
    return [*sizes] or [None]


@dataclass(frozen=True)
class _Pairs:
    """The comparisons of one place, whichever of the two sets they are in."""

    place: Place
    size: int | None
    with_baseline: Mapping[object, Difference]
    others: Mapping[object, Difference]
    baseline: str | None

    def difference(self, ours: Cell, theirs: Cell) -> Difference:
        """Return `ours` less `theirs`."""
        if theirs[0] == self.baseline:
            return self._from_baseline(str(ours[0]))
        if ours[0] == self.baseline:
            return self._from_baseline(str(theirs[0])).negated
        if (self.place, ours, theirs) in self.others:
            return self.others[self.place, ours, theirs]
        return self.others[self.place, theirs, ours].negated

    def _from_baseline(self, norm: str) -> Difference:
        # Two norms without a norm batch are compared once, for all of them.
        sizes = (self.size, None)
        found = (self.with_baseline.get((self.place, size, norm)) for size in sizes)
        return next((one for one in found if one is not None), _NONE)


_NONE = Difference(None, math.nan)


def compared_at(pair: pd.Series) -> tuple[Place, int | None, str]:
    """The place, norm batch and norm of a row of `against_baseline`.

    The norm batch is None where neither side has one.
    """
    has_batch = pair.has_bn or pair[f"has_bn{BASELINE}"] == True  # noqa: E712 - or NaN
    return tuple(pair[LAYOUT]), int(pair.norm_batch_size) if has_batch else None, str(pair.norm)


def _with_baseline(comparison: pd.DataFrame | None) -> dict[object, Difference]:
    """By place, norm batch and norm: its accuracy less the baseline's."""
    rows = [] if comparison is None else [row for _, row in comparison.iterrows()]
    return {compared_at(row): Difference(estimate_of(row, "top1"), float(row.top1_p_holm)) for row in rows}


def _other_pairs(
    cells: Mapping[Place, Mapping[Cell, Values]], baseline: str | None
) -> dict[object, Difference]:
    """By place and two cells: all pairs without the baseline that meet at a norm batch, each once."""
    found: dict[object, Comparison] = {}
    for place, by_cell in cells.items():
        for a, b in combinations([cell for cell in by_cell if cell[0] != baseline], 2):
            if a[1] == b[1] or None in (a[1], b[1]):
                shared = sorted(by_cell[a].keys() & by_cell[b].keys())
                ours, theirs = ([by_cell[cell][seed] for seed in shared] for cell in (a, b))
                found[place, a, b] = compare_pairs(ours, theirs)
    adjusted = holm([one.p for one in found.values()])
    return {key: Difference(one.estimate, p) for (key, one), p in zip(found.items(), adjusted, strict=True)}


def _row(
    place: Place, size: int | None, cell: Cell, rank: int, seeds: Values, behind: Difference | None
) -> dict[str, object]:
    row = dict(zip(LAYOUT, place, strict=True))
    row |= {"norm_batch_size": size, "norm": cell[0], "has_bn": cell[1] is not None, "rank": rank}
    row |= {"is_best": behind is None or not behind.is_higher}
    estimate = behind.estimate if behind else mean_interval(seeds.values())
    row |= {"is_open": estimate is None or not estimate.is_claim}
    row |= {"p_holm": behind.p_holm if behind else math.nan}
    estimates = {"accuracy": mean_interval(seeds.values()), "behind": behind.estimate if behind else None}
    for name, estimate in estimates.items():
        row |= {f"{name}_{part}": one for part, (one,) in estimate_columns([estimate]).items()}
    return row


def rankings(ranked: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The rows of each place and norm batch, in their order."""
    for _, rows in ranked.groupby([*LAYOUT, "norm_batch_size"], sort=False, dropna=False):
        yield rows
