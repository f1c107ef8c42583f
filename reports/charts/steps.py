"""A metric against the norm batch or the number of ranks, which go up by factors."""

import math
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from reports.charts.style import CELL_TIPS, ChartStyle, Spec, layered, levels, linear, tips
from reports.numbers import EMPTY
from reports.seed_statistics import mean_intervals
from reports.stats import MIN_SEEDS_FOR_A_CLAIM

# More runs than these hide each other: the mean's interval is drawn instead.
MAX_RUN_MARKS = 400
CELL = ["norm", "norm_batch_size", "batch_size_per_gpu"]


@dataclass(frozen=True)
class Steps:
    """The axes of a chart: the column that goes up by factors, and what is measured, from zero or not.

    `lines_by`: columns whose values each have a line of their own.
    """

    column: str
    title: str
    value_title: str
    from_zero: bool
    lines_by: tuple[str, ...] = ()


def steps_chart(values: pd.DataFrame, axes: Steps, style: ChartStyle) -> Spec:
    """The mean over seeds with its 95 % interval, and every run behind it where runs are few.

    `values`: norm, norm_batch_size, batch_size_per_gpu, seed, value and `axes.column`. Along the norm batch a
    norm without BN is a level line. A single step gives a dot plot by norm instead of lines.
    """
    means = mean_intervals(values, list(dict.fromkeys([*CELL, axes.column])))
    means["spread"] = [_spread(*one) for one in zip(means.low, means.high, means.seeds, strict=True)]
    many = len(values) > MAX_RUN_MARKS
    low = float(np.nanmin([means.low.min(), values.value.min()]))
    high = float(np.nanmax([means.high.max(), values.value.max()]))
    y_scale = linear(max(low, 0.0) if axes.from_zero else low, high, axes.from_zero)
    free = (
        {v.label for v in style.palette if not v.has_bn} if axes.column == "norm_batch_size" else set[str]()
    )
    bound = values[~values.norm.isin(free)]
    if bound[axes.column].nunique() < 2:
        return _dots(values, means, many, axes, y_scale, style)
    ticks = sorted(int(b) for b in bound[axes.column].unique())
    level, means = means[means.norm.isin(free)], means[~means.norm.isin(free)]
    across = level.drop(columns=axes.column).merge(pd.DataFrame({axes.column: ticks}), how="cross")
    offset = _offsets(style.present(bound))
    x = alt.X(
        "x:Q",
        title=axes.title,
        scale=alt.Scale(type="log", base=2, domain=[ticks[0] / 1.3, ticks[-1] * 1.3], nice=False),
        axis=alt.Axis(values=ticks, format=",d", labelOverlap=True),
    )
    y, y_low = (
        alt.Y(f"{name}:Q", title=axes.value_title, scale=y_scale, axis=alt.Axis(tickCount=5))
        for name in ("value", "low")
    )
    runs, base, free_base = (
        style.chart(
            frame.assign(x=frame[axes.column] * frame.norm.map(lambda n: offset.get(n, 1.0)).astype(float))
        ).encode(x=x, y=y, color=style.color())
        for frame in (bound, means, across)
    )
    line = base.mark_line(strokeWidth=2)
    if axes.lines_by:
        line = line.encode(detail=[f"{column}:N" for column in axes.lines_by])
    interval = {"y": y_low, "y2": "high:Q"}
    layers = [line, *_seeds(runs, base, many, interval, axes, style, sizes=(22, 70))]
    if len(level):
        lines = style.chart(level).encode(color=style.color())
        marks = free_base.mark_point(size=26, filled=True, opacity=1)
        layers += [*levels(lines, y, y_low), marks.encode(shape=style.shape(), tooltip=_mean_tips(axes))]
    return layered(style, *layers, along=axes.column)


def _offsets(norms: list[str]) -> dict[str, float]:
    """Factors of a few pixels, so that equal values do not hide each other; the tooltip has the true step."""
    shift = min(0.07, 0.3 / len(norms))
    return {norm: 2 ** (shift * (i - (len(norms) - 1) / 2)) for i, norm in enumerate(norms)}


def _dots(
    values: pd.DataFrame, means: pd.DataFrame, many: bool, axes: Steps, scale: alt.Scale, style: ChartStyle
) -> Spec:
    order = style.present(values)
    x = alt.X("value:Q", title=axes.value_title, scale=scale, axis=alt.Axis(grid=True, tickCount=5))
    y = alt.Y("norm:N", title=None, sort=order, axis=alt.Axis(labelLimit=160))
    runs, base = (style.chart(frame).encode(x=x, y=y, color=style.color()) for frame in (values, means))
    interval = {"x": alt.X("low:Q", title=axes.value_title, scale=scale), "x2": "high:Q"}
    return layered(
        style,
        *_seeds(runs, base, many, interval, axes, style, sizes=(30, 110)),
        height=max(90, (44 if len(order) < 8 else 24) * len(order)),
    )


def _mean_tips(axes: Steps) -> list[alt.Tooltip]:
    texts = [*_cell_tips(axes), ("value:Q", f"{axes.value_title}, mean"), ("spread:N", "Over seeds")]
    return tips([*texts, ("seeds:Q", "Seeds")])


def _cell_tips(axes: Steps) -> list[tuple[str, str]]:
    own = [] if axes.column in CELL else [(f"{axes.column}:Q", axes.title.partition(" (")[0])]
    return [*CELL_TIPS, *own]


def _seeds(
    runs: alt.Chart,
    means: alt.Chart,
    many: bool,
    interval: dict[str, Any],
    axes: Steps,
    style: ChartStyle,
    sizes: tuple[int, int],
) -> list[alt.Chart]:
    """The runs where they are few, the means' intervals, and over them the means."""
    small, large = sizes
    layers = [means.mark_rule(strokeWidth=1.5, opacity=0.7).encode(**interval)]
    if not many:
        dots = runs.mark_point(size=small, filled=True, opacity=0.45)
        of_run = tips([*_cell_tips(axes), ("value:Q", axes.value_title), ("seed:Q", "Seed")])
        layers.append(dots.encode(shape=style.shape(), tooltip=of_run))
    marks = means.mark_point(size=large, filled=True, opacity=1)
    return [*layers, marks.encode(shape=style.shape(), tooltip=_mean_tips(axes))]


def _spread(low: float, high: float, seeds: int) -> str:
    """The mean's interval, or both values of two seeds; a dash where there is neither."""
    if not math.isfinite(low):
        return EMPTY
    if seeds < MIN_SEEDS_FOR_A_CLAIM:
        return f"{low:.4g} and {high:.4g}"
    return f"95 % interval {low:.4g} to {high:.4g}"
