"""Two sets of runs side by side: before and after, one cluster and another."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from reports.aggregate import HARDWARE, cell_numbers
from reports.collect import Skipped, collect
from reports.findings.baseline import mean_over_layers
from reports.frames import BEST_TOP1, CELL_AXES, GROUP, Frames, build_frames
from reports.settings import settings_texts, varying_fields
from reports.stats import compare_pairs
from suite.errors import UserError
from suite.metrics import METRICS, SHIFT_MU, SHIFT_SIGMA, Direction

# What makes two runs of one cell; `has_bn` goes with the norm.
AXES = [*GROUP, "has_bn"]
# Behind the columns of A and of B.
A, B = "_a", "_b"


@dataclass(frozen=True)
class Compared:
    """A metric that is compared: a column of runs, how it is called, and what counts as the same.

    `margin`: in points for a difference, as a factor less one for a ratio.
    """

    column: str
    title: str
    direction: Direction
    is_ratio: bool
    margin: float
    decimals: int | None = None
    is_judged: bool = True

    @property
    def neutral(self) -> float:
        """What the difference or ratio of equal values is."""
        return 1.0 if self.is_ratio else 0.0


# Within so many points, or such a share, two are called the same.
SAME_POINTS, SAME_SHARE = 0.2, 0.02
_RATIOS = {SHIFT_SIGMA: "Mean scaled ESM σ", SHIFT_MU: "Mean scaled ESM μ", "images_per_s": "Images/s"}
_RATIOS |= {"peak_memory_gib": "Peak memory (GiB)", "epoch_time_s": "Epoch time (s)"}
COMPARED = (
    Compared("top1_percent", "Final top-1 (%)", METRICS["top1_percent"].direction, False, SAME_POINTS, 2),
    # The best of many epochs favours the side whose curve is noisier: shown, without a verdict.
    Compared(BEST_TOP1, "Best top-1 (%)", METRICS["top1_percent"].direction, False, SAME_POINTS, 2, False),
    *(Compared(name, title, METRICS[name].direction, True, SAME_SHARE) for name, title in _RATIOS.items()),
)


@dataclass(frozen=True)
class MatchedRuns:
    """Two sets of runs, matched.

    `pairs`: a row for each run that both have: AXES and seed as A has them; state, run_id, device,
    world_size and the columns of COMPARED, each with `_a` and `_b`. `only_in`: the counted runs of A, and of
    B, that the other lacks; `whole_cell` is true where it has no run of the cell at all. `skipped`: the run
    folders of A, and of B, that cannot be read.
    """

    names: tuple[str, str]
    pairs: pd.DataFrame
    only_in: tuple[pd.DataFrame, pd.DataFrame]
    skipped: tuple[list[Skipped], list[Skipped]]

    @property
    def completed(self) -> pd.DataFrame:
        """The pairs that completed on both sides; all differences are theirs."""
        return self.pairs[(self.pairs.state_a == "completed") & (self.pairs.state_b == "completed")]

    def values(self, metric: Compared) -> pd.DataFrame:
        """Those completed pairs that measured a metric on both sides, as columns a and b."""
        columns = [f"{metric.column}{A}", f"{metric.column}{B}"]
        both = self.completed[columns].set_axis(["a", "b"], axis=1).astype(float)
        is_finite = both.abs() < math.inf
        usable = is_finite & (both > 0) if metric.is_ratio else is_finite
        return both[usable.all(axis=1)]


def compare(a: Path, b: Path, cache: Path | None = None) -> MatchedRuns:
    """Match the runs below `a` with those below `b`: the same run_id, else the same cell (GROUP) and seed.

    `cache`: see reports.collect. Raises UserError when a side has no readable run, or the two
    have no run in common.
    """
    if a.resolve() == b.resolve():
        raise UserError(f"{a} would be compared with itself; name two different folders")
    found = [collect([root], cache) for root in (a, b)]
    sides = _alike_in_settings([build_frames(collection) for collection in found])
    common = _common_layers(sides)
    left, right = (_runs(frames, common) for frames in sides)
    by_id = left.merge(right.drop(columns=[*AXES, "seed"]), on="run_id", suffixes=(A, B))
    by_id = by_id.assign(run_id_a=by_id.run_id, run_id_b=by_id.run_id).drop(columns="run_id")
    rest = [side[~side.run_id.isin(by_id.run_id_a)] for side in (left, right)]
    by_cell = rest[0].merge(rest[1], on=[*AXES, "seed"], suffixes=(A, B))
    pairs = pd.concat([by_id, by_cell[by_id.columns]], ignore_index=True)
    if pairs.empty:
        raise UserError(
            f"{a} and {b} have no run in common: no two are alike in model, data, norm, batches and seed"
        )
    only_in = (_unmatched(left, pairs.run_id_a), _unmatched(right, pairs.run_id_b))
    return MatchedRuns((str(a), str(b)), pairs, only_in, (found[0].skipped, found[1].skipped))


def _alike_in_settings(sides: Sequence[Frames]) -> list[Frames]:
    """Settings name what differs within a side, on both: else a sweep on one side would match nothing."""
    fields = {name for frames in sides for name in varying_fields(frames.runs[CELL_AXES], frames.deciding)}
    return [
        replace(frames, runs=frames.runs.assign(settings=settings_texts(frames.deciding, fields)))
        for frames in sides
    ]


def _common_layers(sides: Sequence[Frames]) -> dict[str, list[str]]:
    """The layers that all variants of both sides have, so that the means of both are over the same ones."""
    left, right = (frames.common_layers for frames in sides)
    return {arch: [x for x in left[arch] if x in right[arch]] for arch in left.keys() & right.keys()}


def _runs(frames: Frames, common: dict[str, list[str]]) -> pd.DataFrame:
    """The counted runs with what is compared. A layer that is NaN makes the run's mean NaN."""
    runs = frames.counted
    wanted = pd.DataFrame([(a, n) for a, names in common.items() for n in names], columns=["arch", "layer"])
    layers = frames.layers.merge(runs[["run", "arch"]], on="run").merge(wanted, on=["arch", "layer"])
    means = {name: mean_over_layers(layers[layers.metric == name]) for name in (SHIFT_SIGMA, SHIFT_MU)}
    runs = runs.assign(**{n: runs.run.map(mean) for n, mean in means.items()})
    return runs[[*AXES, "seed", "run_id", "state", *HARDWARE, *(metric.column for metric in COMPARED)]]


def _unmatched(runs: pd.DataFrame, matched: pd.Series) -> pd.DataFrame:
    is_matched = runs.run_id.isin(matched)
    whole = ~is_matched.groupby(cell_numbers(runs)).transform("any")
    return runs.assign(whole_cell=whole)[~is_matched]


def comparison_table(comparison: MatchedRuns) -> pd.DataFrame:
    """A row for each cell and metric: AXES, metric, kind, n, n_equal, a, b, estimate, low, high.

    `kind` is difference or ratio; `n` counts the cell's pairs and `n_equal` those that are equal to the last
    bit; `a` and `b` are means over the pairs; the estimate is of B − A or of B / A.
    """
    done = comparison.completed
    cell = cell_numbers(done)
    heads = done.assign(cell=cell).drop_duplicates("cell").set_index("cell")[AXES]
    rows = []
    for place, metric in enumerate(COMPARED):
        values = comparison.values(metric)
        a, b = values.a.to_numpy(), values.b.to_numpy()
        kind = "ratio" if metric.is_ratio else "difference"
        for number, chosen in values.groupby(cell[values.index]).indices.items():
            e = compare_pairs(b[chosen].tolist(), a[chosen].tolist(), ratio=metric.is_ratio).estimate
            assert e is not None
            equal = int((a[chosen] == b[chosen]).sum())
            means = (a[chosen].mean(), b[chosen].mean())
            rows.append((number, place, metric.column, kind, e.n, equal, *means, e.mean, e.low, e.high))
    columns = ["cell", "place", "metric", "kind", "n", "n_equal", "a", "b", "estimate", "low", "high"]
    table = pd.DataFrame(rows, columns=columns).sort_values(["cell", "place"]).join(heads, on="cell")
    return table.reset_index(drop=True)[[*AXES, *columns[2:]]]
