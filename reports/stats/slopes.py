"""Least-squares lines. The interval of a slope is that of the seeds' slopes: see `mean_interval`."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of the least-squares line through (x, y); NaN where all x are the same."""
    x, y = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys)
    spread = math.fsum((one - x) ** 2 for one in xs)
    products = math.fsum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True))
    return products / spread if spread else math.nan


def slopes(x: pd.Series, y: pd.Series, by: pd.Series) -> pd.Series:
    """`slope` of each group of `by`, all at once. A y that is not finite makes its group's slope NaN."""
    finite = np.isfinite(y)
    y = y.where(finite)
    dx, dy = (values - values.groupby(by).transform("mean") for values in (x, y))
    sums = pd.DataFrame({"products": dx * dy, "spread": dx**2, "bad": ~finite}).groupby(by).sum()
    return sums["products"] / sums["spread"].where((sums["spread"] > 0) & (sums["bad"] == 0))
