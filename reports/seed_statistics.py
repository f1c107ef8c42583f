"""What a chart shows of the seeds of a cell: all cells at once, however many there are."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import special

from reports.stats import CONFIDENCE


def mean_intervals(values: pd.DataFrame, keys: Sequence[str], confidence: float = CONFIDENCE) -> pd.DataFrame:
    """Of the finite column `value` by `keys`: its mean, Student's t interval (`low`, `high`), and `seeds`.

    One seed has no interval: NaN. Of two, `low` and `high` are the two values, as in `stats.mean_interval`.
    """
    groups = values.groupby(list(keys), as_index=False, sort=False, observed=True)
    found = groups.agg(
        value=("value", "mean"), deviation=("value", "std"), seeds=("value", "count"),
        lowest=("value", "min"), highest=("value", "max"),
    )  # fmt: skip
    t = special.stdtrit(found.seeds - 1, (1 + confidence) / 2)
    half = t * found.deviation / np.sqrt(found.seeds)
    is_pair = found.seeds == 2
    low = (found.value - half).where(~is_pair, found.lowest)
    high = (found.value + half).where(~is_pair, found.highest)
    return found.drop(columns=["deviation", "lowest", "highest"]).assign(low=low, high=high)


def extremes(values: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Of the column `value` by `keys`: its mean, lowest and highest as `low` and `high`, and `seeds`."""
    groups = values.groupby(list(keys), as_index=False, sort=False, observed=True)
    return groups.agg(
        value=("value", "mean"), low=("value", "min"), high=("value", "max"), seeds=("value", "count")
    )


def not_surpassed(cells: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """The cells that no other surpasses in both columns, more being better, with intervals apart.

    `cells`: also `<column>_low` and `<column>_high`. A cell without an interval in both is not among them.
    """
    known = cells.dropna(subset=[f"{axis}_{end}" for axis in (x, y) for end in ("low", "high")])
    lows, highs = (known[[f"{x}_{end}", f"{y}_{end}"]].to_numpy(float) for end in ("low", "high"))
    surpassed = [bool((lows > high).all(axis=1).any()) for high in highs]
    return known.loc[np.logical_not(surpassed)]


def thinned(steps: Sequence[int], most: int) -> list[int]:
    """At most `most` of these steps, evenly chosen, first and last among them."""
    ordered = sorted(steps)
    if len(ordered) <= most:
        return ordered
    places = np.linspace(0, len(ordered) - 1, most).round().astype(int)
    return [ordered[place] for place in places]
